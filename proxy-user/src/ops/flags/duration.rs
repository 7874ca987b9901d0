//! Durations in Go's syntax: `1h0m0s`, `100ms`, `1.5s`; also how Go prints them.

use std::time::Duration;

const UNITS: [(&str, f64); 8] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// Nanoseconds of a Go duration; negative values parse, as in Go.
pub fn parse_go_duration(text: &str) -> Result<i64, String> {
    let wrong = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        if letters == 0 {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let unit = &rest[..letters];
        let scale = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, scale) = scale.ok_or_else(|| format!("time: unknown unit {unit:?} in duration {text:?}"))?;
        total += number * scale;
        rest = &rest[letters..];
    }
    if total >= i64::MAX as f64 {
        return Err(wrong());
    }
    let nanos = total.round() as i64;
    Ok(if negative { -nanos } else { nanos })
}

/// As Go prints a duration: `0s`, `1.5ms`, `1h0m0s`.
pub fn show_go_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let fraction = |nanos: u128, unit: u128, name: &str| {
        let mut text = format!("{}.{:0width$}", nanos / unit, nanos % unit, width = unit.ilog10() as usize);
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
        text + name
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => fraction(nanos, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(nanos, 1_000_000, "ms"),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = fraction(nanos % 60_000_000_000, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads_and_prints_what_go_prints() {
        for (text, nanos, shown) in [
            ("0", 0, "0s"),
            ("1h", 3_600_000_000_000, "1h0m0s"),
            ("1h0m0s", 3_600_000_000_000, "1h0m0s"),
            ("100ms", 100_000_000, "100ms"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("90s", 90_000_000_000, "1m30s"),
            (".5h", 1_800_000_000_000, "30m0s"),
            ("250us", 250_000, "250µs"),
            ("7ns", 7, "7ns"),
            ("+2m", 120_000_000_000, "2m0s"),
        ] {
            assert_eq!(parse_go_duration(text), Ok(nanos), "{text}");
            assert_eq!(show_go_duration(Duration::from_nanos(nanos as u64)), shown);
        }
        assert_eq!(parse_go_duration("-3s"), Ok(-3_000_000_000));
    }

    #[test]
    fn refuses_what_go_refuses() {
        for text in ["", "5", "-", "s", "1x", "1..5s", "1h-3m", "9999999999999h", " 1s"] {
            assert!(parse_go_duration(text).is_err(), "{text:?}");
        }
    }
}
