//! What a flow is: its ids, its counts, how it ended, why a dial failed.

mod dial_error;
mod ending;
mod meter;
mod pace;
mod table;

pub use dial_error::{DialError, DialReason};
pub use ending::{Direction, Ending, Finish};
pub use meter::{Engine, Meter, Path};
pub(crate) use pace::Pace;
pub use table::{Busy, Flow, FlowTable, OpenFlow, Outcome, Totals, engines};
