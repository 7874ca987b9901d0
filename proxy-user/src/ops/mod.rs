//! What an operator sees and turns: health, metrics, log, drain, doctor.

pub mod drain;
pub mod flags;
pub mod log;
pub mod metrics;
pub mod phase;
pub mod signal;
pub mod version;
