//! What went right and what went wrong.

use std::collections::BTreeMap;
use std::fmt;

use super::pattern::Mismatch;
use super::plan::Shape;

/// One wrong thing about one flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    Corrupt(Mismatch),
    /// A clean end came too early: so many bytes of so many.
    Short {
        came: u64,
        of: u64,
    },
    /// More than the sender sent.
    Long {
        came: u64,
        of: u64,
    },
    /// An error where the flow should have gone on.
    Broken {
        at: u64,
        of: u64,
        why: String,
    },
    /// An abort looked like a clean end to a TCP peer.
    AbortLookedClean {
        at: u64,
    },
    NotDialled(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Corrupt(Mismatch { at, shifted: Some(shifted) }) => {
                write!(out, "at byte {at} came the bytes of position {shifted}")
            }
            Fault::Corrupt(Mismatch { at, shifted: None }) => write!(out, "wrong byte at {at}"),
            Fault::Short { came, of } => write!(out, "a clean end after {came} of {of} bytes"),
            Fault::Long { came, of } => write!(out, "{came} bytes came of {of}"),
            Fault::Broken { at, of, why } => write!(out, "{why} at byte {at} of {of}"),
            Fault::AbortLookedClean { at } => write!(out, "an abort looked like a clean end at byte {at}"),
            Fault::NotDialled(why) => write!(out, "no flow: {why}"),
        }
    }
}

/// The books of a run.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub flows: u64,
    pub bytes: u64,
    pub by_shape: BTreeMap<Shape, u64>,
    pub faults: Vec<(u64, Shape, &'static str, Fault)>,
}

impl Tally {
    pub(super) fn add(&mut self, shape: Shape, bytes: u64, faults: Vec<(u64, Shape, &'static str, Fault)>) {
        self.flows += 1;
        self.bytes += bytes;
        *self.by_shape.entry(shape).or_default() += 1;
        self.faults.extend(faults);
    }

    /// How it stands, in a few words.
    pub fn in_short(&self) -> String {
        format!("{} flows, {:.2} GB, {} faults", self.flows, self.bytes as f64 / 1e9, self.faults.len())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} (", self.in_short())?;
        for (shape, count) in &self.by_shape {
            write!(out, " {shape:?} {count}")?;
        }
        write!(out, " )")?;
        for (flow, shape, end, fault) in self.faults.iter().take(20) {
            write!(out, "\n  flow {flow} {shape:?}, at the {end}: {fault}")?;
        }
        Ok(())
    }
}
