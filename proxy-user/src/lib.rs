//! Konduit: Konnectivity's `proxy-server` and `proxy-agent`, moving the bytes of flows inside the kernel.
//!
//! The modules tell the story of one dial. A [`server`] frontend asks, a strategy picks an agent, a [`lane`]
//! (or the [`mux`]) is opened, the [`agent`] dials the target, [`splice`] joins two ends, [`flow`] counts the
//! bytes and says how it ended.
//!
//! Dependencies point one way: `wire <- flow <- splice, mux, lane <- server, agent <- bin`;
//! [`net`] is a leaf that any of them may use, [`ops`] and [`kube`] stand beside what they show and ask for.

pub mod agent;
pub mod flow;
pub mod kube;
pub mod lane;
pub mod mux;
pub mod net;
pub mod ops;
mod parts;
pub mod server;
pub mod splice;
pub mod wire;
