//! What a peer took notice of: packets by their type, and what upstream would have logged.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use proxy_user::wire::pb::{self, PacketType};

/// Counts by name. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Seen(Arc<Mutex<BTreeMap<String, u64>>>);

/// Packets whose type upstream does not know.
pub(super) const FOREIGN: &str = "foreign";
/// Packets that would have ended upstream's process.
pub(super) const CRASH: &str = "crash";

impl Seen {
    /// How often; the names are packet types such as `CLOSE_REQ`, or what is said of one, such as
    /// `CLOSE_REQ of an unknown connectID`.
    pub fn count(&self, name: &str) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied().unwrap_or(0)
    }

    /// Everything, for a test that fails.
    pub fn all(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note(&self, name: &str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default() += 1;
    }

    pub(super) fn packet(&self, packet: &pb::Packet) {
        match PacketType::try_from(packet.r#type) {
            Ok(kind) if (kind as i32) < 1000 => self.note(kind.as_str_name()),
            _ => self.note(FOREIGN),
        }
    }
}
