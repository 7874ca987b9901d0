//! Flows whose every byte is known by its position: random sizes, stalls, half-closes and aborts, checked at both
//! ends.

mod client;
mod drive;
mod pattern;
mod plan;
mod tally;
mod target;

pub use drive::{Load, run, run_telling};
pub use plan::{Plan, Shape};
pub use tally::{Fault, Tally};
pub use target::CheckedTarget;
