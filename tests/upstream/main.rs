//! Every pairing of our server and agent with upstream's, played by `proxy_tests::upstream`: the same behaviour
//! whoever is at the other end and whoever asks, upstream's Go client included. With KONDUIT_UPSTREAM_SERVER and
//! KONDUIT_UPSTREAM_AGENT set to programs, those play upstream's part.
#![allow(clippy::unwrap_used)] // A test fails by it.

mod balanced;
mod cases;
mod ends;
mod flow;
mod go;
mod pair;
mod paused;
mod paused_counts;
mod words;
