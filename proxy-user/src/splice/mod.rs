//! Joins two ends by the best means that was proven on this machine.
//!
//! [`Splicer::join`] is all a caller knows. Two plain sockets leave tokio and belong to one engine thread until
//! they end (copy, splice(2), sockmap); a join with a [`FlowStream`] is copied on tokio.

mod end;

pub use end::{End, EndIo, FlowStream, Plain};
