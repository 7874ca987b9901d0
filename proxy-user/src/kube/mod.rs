//! The Kubernetes API server, for the two things that Konduit asks it: whose an agent's token is, and which servers
//! hold a lease. Nothing on the way of a flow waits for it.

mod client;
mod error;
pub mod lease;
mod proxy;
pub mod selector;
mod tokens;

pub use client::{Kube, KubeConfig};
pub use error::KubeError;
