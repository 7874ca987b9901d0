//! The Kubernetes API server, for the three things that Konduit asks it: whose an agent's token is, which servers hold
//! a lease, and which nodes there are. Nothing on the way of a flow waits for it.

mod client;
mod config;
mod error;
pub mod lease;
pub mod names;
pub mod nodes;
mod proxy;
pub mod selector;
mod tokens;

pub use client::{Kube, KubeConfig};
pub use error::KubeError;
