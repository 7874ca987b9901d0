//! Lanes and control streams behind balancers and proxies that do with them as they please.
#![allow(clippy::unwrap_used)] // A test fails by it.

mod fleet;
mod forgetful;
mod forward;
mod idle;
mod paused;
mod replicas;
