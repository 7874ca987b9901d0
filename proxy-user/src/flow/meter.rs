//! The one ledger of a flow: bytes by direction and engine, shared by whoever moves them and whoever asks.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Direction;

/// What moves the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Engine {
    /// Small buffers in userspace; also every end that is TLS or a packet stream.
    Copy = 0,
    /// splice(2) through pipe pages.
    Splice = 1,
    /// sk_skb verdict redirect; nothing of the direction runs in userspace.
    Sockmap = 2,
}

impl Engine {
    pub const ALL: [Engine; 3] = [Engine::Copy, Engine::Splice, Engine::Sockmap];

    pub fn name(self) -> &'static str {
        match self {
            Engine::Copy => "copy",
            Engine::Splice => "splice",
            Engine::Sockmap => "sockmap",
        }
    }
}

/// What carries a flow between server and agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// A lane that left TLS.
    LaneRaw,
    /// A lane that stays in TLS.
    LaneEncrypt,
    /// DATA packets on the control stream.
    Mux,
}

impl Path {
    pub const ALL: [Path; 3] = [Path::LaneRaw, Path::LaneEncrypt, Path::Mux];

    pub fn name(self) -> &'static str {
        match self {
            Path::LaneRaw => "lane-raw",
            Path::LaneEncrypt => "lane-encrypt",
            Path::Mux => "mux",
        }
    }
}

/// Bytes handed over so far, `[direction][engine]`. Each byte is counted once, by the engine that moved it.
#[derive(Debug, Default)]
pub struct Meter {
    moved: [[AtomicU64; 3]; 2],
}

impl Meter {
    pub fn add(&self, direction: Direction, engine: Engine, bytes: u64) {
        self.moved[direction as usize][engine as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn by(&self, direction: Direction, engine: Engine) -> u64 {
        self.moved[direction as usize][engine as usize].load(Ordering::Relaxed)
    }

    pub fn total(&self, direction: Direction) -> u64 {
        Engine::ALL.iter().map(|engine| self.by(direction, *engine)).sum()
    }
}
