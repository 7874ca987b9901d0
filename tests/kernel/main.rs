//! The in-kernel engine on this machine's kernel: as root, wherever the kernel allows.
//!
//! Each behaviour is a file. A machine that cannot load the programs skips them, loudly.
#![allow(unreachable_pub)] // One binary: what its modules share is public to it alone.
#![allow(clippy::unwrap_used)] // A test fails by it.

mod braking;
mod ends;
mod leaving;
mod passing;
mod proof;
mod redirect;
mod rig;
mod soak;
mod teardown;
