//! The results as one SVG: a group of bars per figure, scaled to the longest of its group.

use std::fmt::Write;

use crate::method::Line;
use crate::report::short;

const WIDTH: f64 = 980.0;
const LABEL: f64 = 190.0;
const BAR: f64 = 15.0;

/// Draws every line that has values.
pub fn draw<'a>(lines: impl Iterator<Item = &'a Line>, indicative: bool) -> String {
    let (mut body, mut y) = (String::new(), 64.0);
    for line in lines.filter(|line| !line.values.is_empty()) {
        y = group(&mut body, line, y);
    }
    let note = if indicative { " — indicative, on a busy machine" } else { "" };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"16\" y=\"28\" font-size=\"17\" font-weight=\"bold\">Konduit beside HAProxy and a direct \
         connection{note}</text>\n<text x=\"16\" y=\"46\" fill=\"#666\">Bars: median of the rounds; thin line: range; \
         each group to its own scale.</text>\n{body}</svg>\n",
        height = y + 16.0
    )
}

fn group(body: &mut String, line: &Line, top: f64) -> f64 {
    let longest = line.values.iter().map(|(_, value)| value.most).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (WIDTH - LABEL - 330.0) / longest;
    let mut y = top + 14.0;
    push(
        body,
        format_args!("<text x=\"16\" y=\"{y}\" font-weight=\"bold\">{} [{}]</text>", line.figure, line.unit),
    );
    let mut side = y;
    for gate in &line.gates {
        let ratio = gate.ratio.map_or("–".to_owned(), |ratio| short(ratio.median));
        let colour = if gate.holds { "#2a7d2e" } else { "#b3261e" };
        let bound = gate.bound.in_words();
        push(
            body,
            format_args!(
                "<text x=\"{}\" y=\"{side}\" fill=\"{colour}\" text-anchor=\"end\">{} = {ratio} (gate {bound})</text>",
                WIDTH - 16.0,
                gate.what
            ),
        );
        side += BAR;
    }
    for (route, value) in &line.values {
        y += BAR + 1.0;
        let (length, from, to) = (value.median * scale, value.least * scale, value.most * scale);
        push(body, format_args!("<text x=\"{}\" y=\"{y}\" text-anchor=\"end\">{route}</text>", LABEL - 8.0));
        push(
            body,
            format_args!(
                "<rect x=\"{LABEL}\" y=\"{}\" width=\"{length:.1}\" height=\"{}\" fill=\"{}\"/>",
                y - 10.0,
                BAR - 3.0,
                colour_of(route)
            ),
        );
        push(
            body,
            format_args!(
                "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"#333\"/>",
                LABEL + from,
                LABEL + to,
                middle = y - 4.0
            ),
        );
        push(
            body,
            format_args!("<text x=\"{:.1}\" y=\"{y}\">{}</text>", LABEL + to + 6.0, short(value.median)),
        );
    }
    y.max(side - BAR) + 18.0
}

fn push(body: &mut String, element: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _ = writeln!(body, "{element}");
}

fn colour_of(route: &str) -> &'static str {
    match route.split('-').next().unwrap_or_default() {
        "direct" => "#9aa0a6",
        "haproxy" => "#4a76c9",
        "ssh" => "#8b6fc0",
        "join" => "#3aa6a0",
        "upstream" => "#c98a3a",
        _ => "#d9572b",
    }
}
