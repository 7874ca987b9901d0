//! The numbers and names that identify things on the wire, so that none can be taken for another.

use std::fmt;
use std::sync::Arc;

/// A dial in progress: `random` on the wire. Chosen by whoever dials, unique on its control stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DialId(pub i64);

/// A flow on one control stream: `connectID` on the wire. Chosen by whoever answers the dial; 1, 2, 3 … and
/// meaningful on its own stream only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub i64);

impl ConnId {
    /// What a failed dial answers with, and what no flow ever has.
    pub const NONE: ConnId = ConnId(0);
}

/// What an agent calls itself. Not unique: one agent may hold several streams, and nothing checks the name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentId(Arc<str>);

/// What a server calls itself; agents hold one control stream per server id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(Arc<str>);

macro_rules! name {
    ($name:ident) => {
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl<T: Into<Arc<str>>> From<T> for $name {
            fn from(text: T) -> $name {
                $name(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(AgentId);
name!(ServerId);

impl fmt::Display for DialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
