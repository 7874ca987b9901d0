//! Joins two ends by the best means that was proven on this machine.
//!
//! [`Splicer::join`] is all a caller knows. Two plain sockets leave tokio, those of a short flow excepted, and belong
//! to one engine thread until they end (copy, splice(2), sockmap); a join with a [`FlowStream`] is copied on tokio.

mod brief;
mod budget;
mod busy;
mod config;
mod conserve;
mod control;
mod crew;
mod direction;
mod end;
mod error;
mod gather;
mod half;
mod haste;
mod inbox;
mod join;
pub mod kernel;
mod pair;
mod pipe;
mod policy;
pub mod proof;
mod rate;
mod redirect;
mod slice;
mod sock;
mod sockmap;
mod splicer;
mod stats;
mod stream;
mod tokio_end;
mod track;
mod trust;
mod worker;

pub(crate) use budget::container_limit;
pub use budget::{Allowance, Room};
pub use config::{EngineChoice, Proven, SpliceConfig};
pub use end::{End, EndIo, FlowStream, Plain, Watched};
pub use error::SpliceError;
pub use join::{Canceller, Join};
pub(crate) use policy::{BRIEF_BYTES, BRIEF_TIME};
pub(crate) use sock::poll_room;
pub use splicer::Splicer;
pub use stats::{Fallback, Snapshot};
pub use trust::Trust;
