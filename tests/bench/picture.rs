//! The results as one SVG: a group of bars per figure, scaled to the longest of its group.

use std::fmt::Write;

use crate::method::Line;
use crate::report::short;

const WIDTH: f64 = 1120.0;
const MARGIN: f64 = 16.0;
/// Where bars begin, and how long the longest is; their values and the ratios stand to their right.
const BARS: f64 = 170.0;
const LONGEST: f64 = 470.0;
const ROW: f64 = 16.0;

const GREY: &str = "#666";
const HOLDS: &str = "#2a7d2e";
const MISSED: &str = "#b3261e";

const LEGEND: [(&str, &str); 5] = [
    ("direct", "no proxy"),
    ("haproxy", "HAProxy → HAProxy, TCP mode"),
    ("konduit", "proxy-server → proxy-agent, lanes and engine by name"),
    ("join", "the splice engine alone, twice"),
    ("ssh", "ssh -L"),
];

/// Draws every line that has values, under the heading that stands beside it. Lines of one heading follow each other.
/// `note` is what the reader has to know of all figures.
pub fn draw<'a>(lines: impl Iterator<Item = (&'a str, &'a Line)>, note: &str) -> String {
    let lines: Vec<_> = lines.filter(|(_, line)| !line.values.is_empty()).collect();
    let (mut body, mut heading) = (String::new(), "");
    let mut y = legend(&mut body, &lines, 66.0);
    for (above, line) in lines {
        if above != heading {
            heading = above;
            y = section(&mut body, heading, y);
        }
        y = group(&mut body, line, y);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{MARGIN}\" y=\"28\" font-size=\"17\" font-weight=\"bold\">Konduit beside HAProxy and a direct \
         connection — {note}</text>\n<text x=\"{MARGIN}\" y=\"46\" fill=\"{GREY}\">Bars: median of the rounds, each group \
         to its own scale; thin line: their range. Right: ratios inside each round, median; green holds its gate, red \
         misses it.</text>\n{body}</svg>\n",
        height = y + MARGIN
    )
}

/// Names the kinds of routes that occur.
fn legend(body: &mut String, lines: &[(&str, &Line)], y: f64) -> f64 {
    let occurs = |kind: &str| {
        lines.iter().any(|(_, line)| line.values.iter().any(|(route, _)| kind_of(route) == kind))
    };
    let mut x = MARGIN;
    for (kind, words) in LEGEND.iter().filter(|(kind, _)| occurs(kind)) {
        let colour = colour_of(kind);
        push(
            body,
            format_args!("<rect x=\"{x}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>", y - 9.0),
        );
        let words = format!("{kind}: {words}");
        push(body, format_args!("<text x=\"{}\" y=\"{y}\">{words}</text>", x + 15.0));
        x += 36.0 + 5.9 * words.chars().count() as f64;
    }
    y + 8.0
}

fn section(body: &mut String, heading: &str, top: f64) -> f64 {
    let y = top + 20.0;
    push(
        body,
        format_args!(
            "<line x1=\"{MARGIN}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" stroke=\"#ccc\"/>",
            WIDTH - MARGIN
        ),
    );
    let y = y + 18.0;
    push(
        body,
        format_args!(
            "<text x=\"{MARGIN}\" y=\"{y}\" font-size=\"13\" font-weight=\"bold\" fill=\"{GREY}\">{heading}</text>"
        ),
    );
    y
}

fn group(body: &mut String, line: &Line, top: f64) -> f64 {
    let y = top + 20.0;
    let better = if is_speed(line.unit) { "more is better" } else { "less is better" };
    push(
        body,
        format_args!(
            "<text x=\"{MARGIN}\" y=\"{y}\"><tspan font-weight=\"bold\">{}</tspan> [{}] <tspan fill=\"{GREY}\">{better}</tspan></text>",
            line.figure, line.unit
        ),
    );
    let longest = line.values.iter().map(|(_, value)| value.most).fold(f64::MIN_POSITIVE, f64::max);
    for (at, (route, value)) in line.values.iter().enumerate() {
        let y = y + ROW * (at + 1) as f64;
        // What is nothing or less has no bar, only its number.
        let [length, from, to] =
            [value.median, value.least, value.most].map(|value| (value / longest).clamp(0.0, 1.0) * LONGEST);
        push(body, format_args!("<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{route}</text>", BARS - 8.0));
        push(
            body,
            format_args!(
                "<rect x=\"{BARS}\" y=\"{}\" width=\"{length:.1}\" height=\"12\" fill=\"{}\"/>",
                y - 10.0,
                colour_of(route)
            ),
        );
        push(
            body,
            format_args!(
                "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"#333\"/>",
                BARS + from,
                BARS + to,
                middle = y - 4.0
            ),
        );
        push(
            body,
            format_args!("<text x=\"{:.1}\" y=\"{y}\">{}</text>", BARS + to + 6.0, short(value.median)),
        );
    }
    let rows = line.values.len().max(remarks(body, line, y));
    y + ROW * rows as f64
}

/// Gates and ratios, each in the row of the route it is about as far as there is room. Returns how many rows they take.
fn remarks(body: &mut String, line: &Line, y: f64) -> usize {
    let gates = line.gates.iter().map(|gate| {
        let ratio = gate.ratio.map_or("no figure".to_owned(), |ratio| short(ratio.median));
        let colour = if gate.holds { HOLDS } else { MISSED };
        (&gate.what, format!("{} = {ratio}, gate {}", gate.what, gate.bound.in_words()), colour)
    });
    let ratios =
        line.ratios.iter().map(|(what, ratio)| (what, format!("{what} = {}", short(ratio.median)), GREY));
    let mut taken: Vec<usize> = Vec::new();
    for (what, text, colour) in gates.chain(ratios) {
        let about = what.split([' ', ',']).next().unwrap_or_default();
        let wanted = line.values.iter().position(|(route, _)| route == about).unwrap_or(line.values.len());
        let free = |row: &usize| !taken.contains(row);
        let row = (wanted..).find(free).unwrap_or(wanted);
        taken.push(row);
        push(
            body,
            format_args!(
                "<text x=\"{}\" y=\"{}\" fill=\"{colour}\" text-anchor=\"end\">{text}</text>",
                WIDTH - MARGIN,
                y + ROW * (row + 1) as f64
            ),
        );
    }
    taken.iter().max().map_or(0, |last| last + 1)
}

fn push(body: &mut String, element: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _ = writeln!(body, "{element}");
}

fn is_speed(unit: &str) -> bool {
    matches!(unit, "Gbit/s" | "/s" | "share")
}

fn kind_of(route: &str) -> &str {
    match route.split('-').next().unwrap_or_default() {
        kind @ ("direct" | "haproxy" | "ssh" | "join") => kind,
        _ => "konduit",
    }
}

fn colour_of(route: &str) -> &'static str {
    match kind_of(route) {
        "direct" => "#9aa0a6",
        "haproxy" => "#4a76c9",
        "ssh" => "#8b6fc0",
        "join" => "#3aa6a0",
        _ => "#d9572b",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::{Bound, Spread};
    use crate::method::Gate;

    fn line(values: &[(&str, f64)]) -> Line {
        let spread = |value: f64| Spread { median: value, least: value, most: value };
        Line {
            figure: "a figure".to_owned(),
            unit: "MiB",
            values: values.iter().map(|(route, value)| ((*route).to_owned(), spread(*value))).collect(),
            ratios: Vec::new(),
            gates: Vec::new(),
            notes: Vec::new(),
            shares: Vec::new(),
        }
    }

    #[test]
    fn a_negative_value_has_its_number_and_no_bar() {
        let line = line(&[("haproxy", 0.5), ("konduit-raw", -0.25)]);
        let drawing = draw([("memory", &line)].into_iter(), "cubic");
        assert!(drawing.contains("width=\"0.0\"") && drawing.contains(">-0.25<"), "{drawing}");
        assert!(!drawing.contains("width=\"-") && drawing.contains("— cubic<"), "{drawing}");
    }

    #[test]
    fn remarks_of_one_route_take_a_row_each() {
        let gate = |what: &str| Gate::on(what, 1.0, Bound::AtMost(2.0));
        let line = line(&[("direct", 1.0), ("konduit-raw", 1.0)])
            .with_gate(gate("konduit-raw / direct"))
            .with_gate(gate("konduit-raw, its share"));
        let mut body = String::new();
        assert_eq!(remarks(&mut body, &line, 0.0), 3);
        assert!(body.contains("y=\"32\"") && body.contains("y=\"48\""), "{body}");
    }
}
