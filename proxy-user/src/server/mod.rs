//! proxy-server: frontends, agents, and the dial between them.

pub mod options;
