//! Prints the table as it grows; writes the results as JSON and as a picture at the end.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value, json};

use crate::context::Context;
use crate::gate::{Bound, Spread};
use crate::method::{Gate, Line};
use crate::scenario::Scenario;
use crate::{network, picture};

pub struct Report {
    out: PathBuf,
    /// What congestion control TCP had, and where.
    network: String,
    noisy: bool,
    show_only: bool,
    /// Gates are far from what one look of the short form can tell, their floors are not; of routes that were asked
    /// for by name nothing is known, and other work on the machine reaches any floor.
    floors: bool,
    began: Instant,
    current: Instant,
    lines: Vec<(&'static str, Line)>,
    /// Scenarios that could not be measured, and why.
    failed: Vec<(&'static str, String)>,
}

impl Report {
    pub fn new(context: &Context, network: String) -> Report {
        let rounds = context.rounds();
        println!(
            "{rounds} round(s) per figure, unless its scenario says otherwise; median (least … most) of the rounds, ratios inside each round."
        );
        println!("TCP's congestion control: {network}.");
        if context.options.noisy {
            println!("INDICATIVE ONLY: other work runs on this machine.");
        }
        Report {
            out: context.options.out.clone(),
            network,
            noisy: context.options.noisy,
            show_only: context.options.show_only,
            floors: context.options.quick && !context.options.noisy && context.options.ours.is_empty(),
            began: Instant::now(),
            current: Instant::now(),
            lines: Vec::new(),
            failed: Vec::new(),
        }
    }

    pub fn begin(&mut self, scenario: &Scenario) {
        self.current = Instant::now();
        println!("\n== {}: {}", scenario.name, scenario.about);
    }

    pub fn end(
        &mut self,
        scenario: &'static Scenario,
        outcome: anyhow::Result<Vec<Line>>,
        kernel: anyhow::Result<()>,
    ) {
        match outcome {
            Ok(lines) => {
                for line in lines {
                    print_line(&line);
                    for gate in &line.gates {
                        self.hold_floor(scenario.name, &line.figure, gate);
                    }
                    self.lines.push((scenario.name, line));
                }
            }
            Err(error) => self.fail(scenario.name, format!("{error:#}")),
        }
        self.heed(scenario.name, kernel);
        println!("   ({:.0} s)", self.current.elapsed().as_secs_f64());
    }

    /// What the kernel said until then.
    pub fn heed(&mut self, when: &'static str, kernel: anyhow::Result<()>) {
        if let Err(error) = kernel {
            self.fail(when, format!("{error:#}"));
        }
    }

    fn hold_floor(&mut self, scenario: &'static str, figure: &str, gate: &Gate) {
        let Some(floor) = gate.broken_floor().filter(|_| self.floors) else { return };
        let (gate, floor) = (gate_in_words(gate), floor.in_words());
        self.fail(scenario, format!("{figure}: {gate}; even one short look must give {floor}"));
    }

    fn fail(&mut self, scenario: &'static str, why: String) {
        println!("   FAILED: {why}");
        self.failed.push((scenario, why));
    }

    /// The verdict over all; failure when a gate was missed or a scenario could not be measured.
    pub fn finish(self) -> anyhow::Result<ExitCode> {
        let gates: Vec<(&Line, &Gate)> =
            self.lines.iter().flat_map(|(_, line)| line.gates.iter().map(move |gate| (line, gate))).collect();
        let missed: Vec<_> = gates.iter().filter(|(_, gate)| !gate.holds).collect();
        println!(
            "\n== {} of {} gates hold, {:.0} s",
            gates.len() - missed.len(),
            gates.len(),
            self.began.elapsed().as_secs_f64()
        );
        for (line, gate) in &missed {
            println!("   missed: {}: {}", line.figure, gate_in_words(gate));
        }
        for (scenario, why) in &self.failed {
            println!("   failed: {scenario}: {}", why.lines().next().unwrap_or_default());
        }
        let results = self.out.join("results.json");
        fs::write(&results, serde_json::to_string_pretty(&self.as_json())?)?;
        let drawing = self.out.join("results.svg");
        let note = network::note(&self.network, self.noisy);
        fs::write(
            &drawing,
            picture::draw(self.lines.iter().map(|(scenario, line)| (*scenario, line)), &note),
        )?;
        println!("   {} and {}", results.display(), drawing.display());
        let held = self.show_only || missed.is_empty();
        Ok(if held && self.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn as_json(&self) -> Value {
        let spread =
            |spread: &Spread| json!({"median": spread.median, "least": spread.least, "most": spread.most});
        let lines: Vec<Value> = self
            .lines
            .iter()
            .map(|(scenario, line)| {
                json!({
                    "scenario": scenario,
                    "figure": line.figure,
                    "unit": line.unit,
                    "values": line.values.iter().map(|(route, value)| (route.clone(), spread(value))).collect::<serde_json::Map<_, _>>(),
                    "ratios": line.ratios.iter().map(|(what, value)| (what.clone(), spread(value))).collect::<serde_json::Map<_, _>>(),
                    "gates": line.gates.iter().map(|gate| json!({
                        "what": gate.what, "bound": gate.bound.in_words(), "floor": gate.floor.map(Bound::in_words), "ratio": gate.ratio.as_ref().map(spread), "holds": gate.holds,
                    })).collect::<Vec<_>>(),
                    "shares": line.shares.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
                    "notes": line.notes,
                })
            })
            .collect();
        json!({"indicative": self.noisy, "congestion_control": self.network, "lines": lines, "failed": self.failed})
    }
}

fn print_line(line: &Line) {
    println!("{} [{}]", line.figure, line.unit);
    let values: Vec<String> = line
        .values
        .iter()
        .map(|(route, value)| {
            format!("{route} {} ({} … {})", short(value.median), short(value.least), short(value.most))
        })
        .collect();
    println!("   {}", values.join("   "));
    for (what, ratio) in &line.ratios {
        println!("   {what}: {} ({} … {})", short(ratio.median), short(ratio.least), short(ratio.most));
    }
    for gate in &line.gates {
        println!("   {} {}", if gate.holds { "holds " } else { "MISSED" }, gate_in_words(gate));
    }
    for note in &line.notes {
        println!("   {note}");
    }
    for (route, shares) in line.shares.iter().filter(|(_, shares)| !shares.is_empty()) {
        println!("   {route}: {shares}");
    }
}

fn gate_in_words(gate: &Gate) -> String {
    let bound = gate.bound.in_words();
    match &gate.ratio {
        Some(ratio) => format!(
            "{} = {} ({} … {}), gate {bound}",
            gate.what,
            short(ratio.median),
            short(ratio.least),
            short(ratio.most)
        ),
        None => format!("{}: no figure, gate {bound}", gate.what),
    }
}

/// Three significant digits, thousands set apart.
pub fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 999.5 => {
            let whole = value.round() as i64;
            let (above, below) = (whole / 1000, (whole % 1000).abs());
            return format!(
                "{},{below:03}",
                if above.abs() < 1000 { above.to_string() } else { short(above as f64) }
            );
        }
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn figures_are_short() {
        let cases = [
            (0.004, "0.00"),
            (9.5, "9.50"),
            (12.34, "12.3"),
            (-160.4, "-160"),
            (999.6, "1,000"),
            (5503.2, "5,503"),
            (1234567.0, "1,234,567"),
        ];
        for (value, words) in cases {
            assert_eq!(short(value), words);
        }
    }
}
