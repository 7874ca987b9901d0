//! What an operator sees and turns: health, metrics, log, drain, doctor.

pub mod flags;
pub mod metrics;
pub mod version;
