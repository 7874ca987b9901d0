//! Every pairing of our server and agent with upstream's, played by `proxy_tests::upstream`: the same behaviour
//! whoever is at the other end. With KONDUIT_UPSTREAM_SERVER and KONDUIT_UPSTREAM_AGENT set to programs, those play
//! upstream's part.
#![allow(clippy::unwrap_used)] // A test fails by it.

mod cases;
mod flow;
mod go;
mod pair;
mod paused;
