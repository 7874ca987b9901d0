//! The live flows as a table.

use std::sync::Arc;

use crate::flow::{Direction, Flow, engines};

const HEAD: [&str; 9] = [
    "FLOW",
    "TARGET",
    "PEER",
    "PATH",
    "ENGINE (to target/to client)",
    "TO TARGET",
    "TO CLIENT",
    "AVERAGE",
    "AGE",
];

/// One line per flow, oldest first, and a line that counts them.
pub(super) fn render(flows: &[Arc<Flow>]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(flows.iter().map(|flow| row(flow)));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let line: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text.push_str(&format!("{} flows\n", flows.len()));
    text
}

fn row(flow: &Flow) -> [String; 9] {
    let (up, down) = (flow.meter.total(Direction::Up), flow.meter.total(Direction::Down));
    let age = flow.since.elapsed();
    let rate = (up + down) as f64 / age.as_secs_f64().max(0.001);
    [
        flow.number.to_string(),
        plain(&flow.target),
        plain(&flow.peer),
        flow.path.name().to_owned(),
        engines(&flow.meter),
        bytes(up as f64),
        bytes(down as f64),
        format!("{}/s", bytes(rate)),
        format!("{:.0}s", age.as_secs_f64()),
    ]
}

/// A peer's text must not steer a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

fn bytes(count: f64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let step =
        (0..UNITS.len() - 1).find(|step| count < 1000f64.powi(*step as i32 + 1)).unwrap_or(UNITS.len() - 1);
    let decimals = usize::from(step > 0);
    format!("{:.decimals$} {}", count / 1000f64.powi(step as i32), UNITS[step])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{Engine, FlowTable, Path};

    #[test]
    fn a_flow_is_a_line_with_its_path_and_engines() {
        let table = FlowTable::new();
        let open = table.open("10.0.0.1:10250\x1b[2J", "agent-1", Path::LaneRaw);
        open.meter().add(Direction::Down, Engine::Splice, 1_500_000);
        let text = render(&table.live());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("10.0.0.1:10250?[2J") && lines[1].contains("lane-raw"), "{text}");
        assert!(lines[1].contains("-/splice") && lines[1].contains("1.5 MB"), "{text}");
        assert_eq!(lines[2], "1 flows");
    }

    #[test]
    fn counts_are_short() {
        for (count, text) in
            [(0.0, "0 B"), (999.0, "999 B"), (1000.0, "1.0 kB"), (2.5e12, "2.5 TB"), (9e15, "9000.0 TB")]
        {
            assert_eq!(bytes(count), text);
        }
    }
}
