//! What Konduit's tests and benches share: load generators, peers to compare with, ways to look at the machine.

pub mod apiserver;
pub mod balancer;
pub mod calls;
pub mod certs;
pub mod child;
pub mod cpu;
pub mod dark;
pub mod field;
pub mod haproxy;
pub mod integrity;
pub mod kernel_log;
pub mod konduit;
pub mod link;
pub mod load;
pub mod memory;
pub mod netns;
pub mod pings;
pub mod ports;
pub mod relay;
pub mod runner;
pub mod scrape;
pub mod ssh;
pub mod targets;
pub mod upstream;
