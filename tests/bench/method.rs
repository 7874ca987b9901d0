//! Rounds, interleaved: each route once, then all again.

use std::collections::BTreeMap;
use std::rc::Rc;

use anyhow::Context as _;

use crate::gate::{Bound, Spread};
use crate::route::{Carried, Route, Shares};

/// What one look at one route gave, by metric.
pub type Sample = Vec<(&'static str, f64)>;

/// All samples of a scenario.
pub struct Samples {
    /// Route → metric → value per round.
    values: BTreeMap<String, BTreeMap<&'static str, Vec<f64>>>,
    order: Vec<String>,
    shares: BTreeMap<String, Shares>,
}

/// Looks at every route once per round. A route that carried bytes by another path or engine than asked is an error; one
/// whose engine this machine has not is left out.
pub fn rounds(
    rounds: usize,
    routes: &[Rc<Route>],
    look: impl FnMut(&Route) -> anyhow::Result<Sample>,
) -> anyhow::Result<Samples> {
    rounds_carried(rounds, routes, Route::must_carry, look)
}

/// As [`rounds`], for a load of which a forced engine need not carry what it does elsewhere.
pub fn rounds_carried(
    rounds: usize,
    routes: &[Rc<Route>],
    must: impl Fn(&Route) -> Carried,
    mut look: impl FnMut(&Route) -> anyhow::Result<Sample>,
) -> anyhow::Result<Samples> {
    let routes: Vec<_> = routes
        .iter()
        .filter(|route| {
            let why = route.unproven();
            why.iter().for_each(|why| eprintln!("!!! SKIPPED {}: {why}", route.name));
            why.is_none()
        })
        .collect();
    anyhow::ensure!(rounds > 0, "without a round nothing is measured; --rounds takes 1 and more");
    let mut samples = Samples {
        values: BTreeMap::new(),
        order: routes.iter().map(|route| route.name.clone()).collect(),
        shares: BTreeMap::new(),
    };
    for round in 0..rounds {
        for &route in &routes {
            let before = route.shares()?;
            let sample = look(route).with_context(|| format!("{} in round {}", route.name, round + 1))?;
            check_figures(&sample).with_context(|| format!("{} in round {}", route.name, round + 1))?;
            let moved = route.shares()?.since(&before);
            route.check_path(&moved)?;
            route.check_engine(&moved, must(route))?;
            samples.shares.entry(route.name.clone()).or_default().add(&moved);
            let metrics = samples.values.entry(route.name.clone()).or_default();
            for (metric, value) in sample {
                metrics.entry(metric).or_default().push(value);
            }
            eprint!(".");
        }
        eprint!(" ");
    }
    eprintln!();
    Ok(samples)
}

/// An error when a figure is none, as the median of no round trips.
fn check_figures(sample: &Sample) -> anyhow::Result<()> {
    let none: Vec<_> =
        sample.iter().filter(|(_, value)| !value.is_finite()).map(|(metric, _)| *metric).collect();
    anyhow::ensure!(none.is_empty(), "the look gave no figure for {}", none.join(" and "));
    Ok(())
}

impl Samples {
    pub fn of(&self, route: &str, metric: &str) -> &[f64] {
        self.values.get(route).and_then(|metrics| metrics.get(metric)).map_or(&[], Vec::as_slice)
    }

    /// A line of the table: the metric on every route.
    pub fn line(&self, figure: &str, metric: &'static str, unit: &'static str) -> Line {
        let values = self
            .order
            .iter()
            .filter_map(|route| Some((route.clone(), Spread::of(self.of(route, metric))?)))
            .collect();
        Line {
            figure: figure.to_owned(),
            unit,
            values,
            ratios: Vec::new(),
            gates: Vec::new(),
            notes: Vec::new(),
            shares: self.shares.iter().map(|(route, shares)| (route.clone(), shares.in_words())).collect(),
        }
    }

    pub fn gate(&self, metric: &str, (ours, theirs): (&str, &str), bound: Bound) -> Gate {
        let gate = self.gate_of((ours, metric), (theirs, metric), bound);
        Gate { what: format!("{ours} / {theirs}"), ..gate }
    }

    /// A gate on the ratio of two metrics.
    pub fn gate_of(&self, ours: (&str, &str), theirs: (&str, &str), bound: Bound) -> Gate {
        let ratio = Spread::of_ratios(self.of(ours.0, ours.1), self.of(theirs.0, theirs.1));
        Gate {
            what: format!("{} {} / {}", ours.0, ours.1, theirs.1),
            bound,
            floor: None,
            ratio,
            holds: ratio.is_some_and(|ratio| bound.holds(ratio.median)),
        }
    }

    /// The ratio without a bound, for the reader.
    pub fn ratio(&self, metric: &str, ours: &str, theirs: &str) -> Option<(String, Spread)> {
        let ratio = Spread::of_ratios(self.of(ours, metric), self.of(theirs, metric))?;
        Some((format!("{ours} / {theirs}"), ratio))
    }
}

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Line {
    pub figure: String,
    pub unit: &'static str,
    /// Route and its median and range, in the order in which they were looked at.
    pub values: Vec<(String, Spread)>,
    pub ratios: Vec<(String, Spread)>,
    pub gates: Vec<Gate>,
    pub notes: Vec<String>,
    /// Route and, in words, which path and engine carried the bytes.
    pub shares: Vec<(String, String)>,
}

/// A ratio with its bound.
#[derive(Debug, Clone)]
pub struct Gate {
    pub what: String,
    pub bound: Bound,
    /// Far from the bound: what not even the short form may miss.
    pub floor: Option<Bound>,
    pub ratio: Option<Spread>,
    pub holds: bool,
}

impl Gate {
    /// A gate on one value that is no ratio of two routes' samples.
    pub fn on(what: impl Into<String>, value: f64, bound: Bound) -> Gate {
        let ratio = Spread::of(&[value]);
        Gate { what: what.into(), bound, floor: None, ratio, holds: ratio.is_some() && bound.holds(value) }
    }

    /// One look on a busy machine says little about the bound, and enough about one as loose as this.
    pub fn with_floor(self, floor: Bound) -> Gate {
        Gate { floor: Some(floor), ..self }
    }

    /// The floor, where not even that holds.
    pub fn broken_floor(&self) -> Option<Bound> {
        self.floor.filter(|floor| !self.ratio.is_some_and(|ratio| floor.holds(ratio.median)))
    }
}

impl Line {
    pub fn with_gate(mut self, gate: Gate) -> Line {
        self.gates.push(gate);
        self
    }

    pub fn with_ratio(mut self, ratio: Option<(String, Spread)>) -> Line {
        self.ratios.extend(ratio);
        self
    }

    /// What carried the bytes stands at another line already.
    pub fn without_shares(mut self) -> Line {
        self.shares.clear();
        self
    }

    pub fn with_note(mut self, note: impl Into<String>) -> Line {
        self.notes.push(note.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_must_give_every_figure() {
        assert!(check_figures(&vec![("p50", 45.0), ("growth", -0.5)]).is_ok());
        for none in [f64::NAN, f64::INFINITY] {
            let error = check_figures(&vec![("p50", 45.0), ("p99", none)]).unwrap_err().to_string();
            assert!(error.ends_with("for p99"), "{error}");
        }
        assert!(rounds(0, &[], |_| Ok(Vec::new())).is_err());
    }

    #[test]
    fn a_floor_breaks_far_below_the_gate_and_without_a_figure() {
        let gate = |value| Gate::on("ours", value, Bound::AtLeast(1.4)).with_floor(Bound::AtLeast(0.7));
        assert!(gate(1.5).holds && gate(1.5).broken_floor().is_none());
        assert!(!gate(0.8).holds && gate(0.8).broken_floor().is_none());
        assert_eq!(gate(0.6).broken_floor(), Some(Bound::AtLeast(0.7)));
        assert!(gate(f64::NAN).broken_floor().is_some());
        assert!(Gate::on("ours", 0.1, Bound::AtLeast(1.4)).broken_floor().is_none());
    }
}
