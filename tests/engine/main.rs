//! The splice engine between two real sockets, without any proxy around it.
#![allow(unreachable_pub)] // One binary: what its modules share is public to it alone.
#![allow(clippy::unwrap_used)] // A test fails by it.

mod abort;
mod adapt;
mod bench;
mod budget;
mod busy;
mod copy;
mod distrust;
mod full;
mod gone;
mod integrity;
mod ladder;
mod pattern;
mod urgent;
mod watched;
