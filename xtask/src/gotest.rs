//! What `go test -json` tells, for people: a line of what passes, all of what fails, and every test that was skipped.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::Command;

use anyhow::Result;
use serde_json::Value;

use crate::sh;

/// Runs `command`, which prints events as `go test -json` and `go tool test2json` do.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<()> {
    let mut digest = Digest { pending: BTreeMap::new(), skipped: Vec::new(), out: std::io::stdout() };
    let outcome = sh::run_heard(what, command, |line| digest.hear(line));
    digest.finish(outcome.is_ok())?;
    outcome
}

/// In seconds.
const LONG: f64 = 5.0;

struct Digest<W> {
    /// What each test printed that has not ended yet.
    pending: BTreeMap<String, String>,
    /// Tests and what they said of it.
    skipped: Vec<(String, String)>,
    out: W,
}

impl<W: Write> Digest<W> {
    fn hear(&mut self, line: &str) -> Result<()> {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            writeln!(self.out, "{line}")?;
            return Ok(());
        };
        let field = |name: &str| event.get(name).and_then(Value::as_str);
        let output = field("Output").unwrap_or_default();
        let Some(test) = field("Test") else {
            // Of a package or of the compiler.
            write!(self.out, "{output}")?;
            return Ok(());
        };
        let name = format!("{} {test}", field("Package").unwrap_or_default());
        match field("Action") {
            Some("output") => self.pending.entry(name).or_default().push_str(output),
            Some("pass") => {
                self.pending.remove(&name);
                let seconds = event.get("Elapsed").and_then(Value::as_f64).unwrap_or_default();
                // Subtests are many: those are told of that a reader waits for.
                if !test.contains('/') || seconds >= LONG {
                    writeln!(self.out, "ok   {test} ({seconds:.0} s)")?;
                }
            }
            Some("fail") => write!(self.out, "{}", self.pending.remove(&name).unwrap_or_default())?,
            Some("skip") => {
                let said = self.pending.remove(&name).unwrap_or_default();
                self.skipped.push((name, said));
            }
            _ => {}
        }
        Ok(())
    }

    /// Last, where nobody misses it: what was skipped, and what tests said that never ended.
    fn finish(&mut self, passed: bool) -> Result<()> {
        if !passed {
            for said in std::mem::take(&mut self.pending).into_values() {
                write!(self.out, "{said}")?;
            }
        }
        for (test, said) in &self.skipped {
            writeln!(self.out, "!!! SKIPPED: {test}\n{said}")?;
        }
        if !self.skipped.is_empty() {
            writeln!(self.out, "!!! {} test(s) SKIPPED, see above", self.skipped.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(events: &[&str], passed: bool) -> String {
        let mut digest = Digest { pending: BTreeMap::new(), skipped: Vec::new(), out: Vec::new() };
        for event in events {
            digest.hear(event).unwrap();
        }
        digest.finish(passed).unwrap();
        String::from_utf8(digest.out).unwrap()
    }

    #[test]
    fn a_pass_is_short_a_failure_whole_and_a_skip_comes_last_with_its_reason() {
        let events = [
            r#"{"Action":"start","Package":"p"}"#,
            r#"{"Action":"output","Package":"p","Output":"*** NOT ROOT ***\n"}"#,
            r#"{"Action":"output","Package":"p","Test":"TestGood","Output":"chatter\n"}"#,
            r#"{"Action":"pass","Package":"p","Test":"TestGood/one","Elapsed":1}"#,
            r#"{"Action":"pass","Package":"p","Test":"TestGood/two","Elapsed":5}"#,
            r#"{"Action":"pass","Package":"p","Test":"TestGood","Elapsed":6.2}"#,
            r#"{"Action":"output","Package":"p","Test":"TestLeft","Output":"nothing to test with\n"}"#,
            r#"{"Action":"skip","Package":"p","Test":"TestLeft","Elapsed":0}"#,
            r#"{"Action":"output","Package":"p","Test":"TestBad/one","Output":"wrong\n"}"#,
            r#"{"Action":"output","Package":"p","Test":"TestBad/one","Output":"and why\n"}"#,
            r#"{"Action":"fail","Package":"p","Test":"TestBad/one","Elapsed":2}"#,
            r#"{"Action":"output","Package":"p","Test":"TestCut","Output":"until here\n"}"#,
            r#"{"Action":"output","Package":"p","Output":"ok p 3s\n"}"#,
            "no event",
        ];
        let skipped = "!!! SKIPPED: p TestLeft\nnothing to test with\n\n!!! 1 test(s) SKIPPED, see above\n";
        let so_far = "*** NOT ROOT ***\nok   TestGood/two (5 s)\nok   TestGood (6 s)\nwrong\nand why\nok p 3s\nno event\n";
        assert_eq!(told(&events, true), format!("{so_far}{skipped}"));
        assert_eq!(told(&events, false), format!("{so_far}until here\n{skipped}"));
    }
}
