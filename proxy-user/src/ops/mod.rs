//! What an operator sees and turns: health, metrics, log, drain, doctor.

pub mod admin;
pub mod cli;
pub mod doctor;
pub mod drain;
pub mod flags;
pub mod health;
pub mod http;
pub mod life;
pub mod listeners;
pub mod log;
pub mod metrics;
pub mod operator;
pub mod phase;
mod pprof;
pub mod settings;
pub mod signal;
pub mod version;
