//! The agents' side of a server: their port, their control streams, who of them is there.

mod control;
pub mod handle;
pub mod listen;
mod preface;
pub mod registry;
pub mod service;
mod trouble;
mod unknown;
