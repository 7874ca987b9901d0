//! What a figure has to be: a ratio against another route, inside each round.

/// A bound on the median of the ratios.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    pub fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtLeast(least) => value >= least,
            Bound::AtMost(most) => value <= most,
        }
    }

    pub fn in_words(self) -> String {
        match self {
            Bound::AtLeast(least) => format!("≥ {least}"),
            Bound::AtMost(most) => format!("≤ {most}"),
        }
    }
}

/// Median and range of the ratios of all rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    pub fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        };
        Some(Spread { median, least, most })
    }

    /// Ratios round by round.
    pub fn of_ratios(ours: &[f64], theirs: &[f64]) -> Option<Spread> {
        Spread::of(&ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_taken_inside_each_round() {
        // The second round was twice as slow for both; the ratio does not notice.
        let spread = Spread::of_ratios(&[20.0, 10.0, 21.0], &[10.0, 5.0, 10.0]).unwrap();
        assert_eq!(spread, Spread { median: 2.0, least: 2.0, most: 2.1 });
    }

    #[test]
    fn a_bound_includes_its_edge() {
        assert!(Bound::AtLeast(1.4).holds(1.4) && !Bound::AtLeast(1.4).holds(1.39));
        assert!(Bound::AtMost(0.25).holds(0.25) && !Bound::AtMost(0.25).holds(0.26));
    }
}
