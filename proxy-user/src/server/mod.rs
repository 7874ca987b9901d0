//! proxy-server: frontends, agents, and the dial between them.

pub mod frontend;
pub mod operate;
pub mod options;
