//! proxy-agent: one control stream per server, dials to targets.

pub mod operate;
pub mod options;
