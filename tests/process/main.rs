//! The two programs over their life: how they stop, what they reload, what they bear.
#![allow(clippy::unwrap_used)] // A test fails by it.

mod alpn;
mod bind;
mod budget;
mod dates;
mod descriptors;
mod environment;
mod flags;
mod garbage;
mod ground;
mod killed;
mod live;
mod log;
mod log_copies;
mod lower;
mod profiles;
mod proven;
mod reload;
mod reload_frontends;
mod search;
mod silent;
mod sockets;
mod stop;
mod unprivileged;
mod vanished;
mod vanished_lanes;
