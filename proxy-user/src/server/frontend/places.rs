//! Room for the connections of API servers: descriptors are set aside when one is accepted, not when it dials.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::stranger::Strangers;
use crate::net::room::{Of, tell_no_room};
use crate::ops::metrics::ServerMetrics;
use crate::server::options::Mode;

/// Connections without room that may be told so at a time; the others are closed at once.
const REFUSALS: usize = 32;

/// How many connections there may be. Clones share them.
#[derive(Clone)]
pub(super) struct Places {
    most: u64,
    free: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    strangers: Arc<Mutex<Strangers>>,
    metrics: ServerMetrics,
}

/// A connection's place, given back when dropped.
pub(super) enum Place {
    /// Room for the connection and for the way to its target.
    Kept { _permit: OwnedSemaphorePermit },
    /// Room to say that there is none.
    Refused { _permit: OwnedSemaphorePermit },
}

impl Places {
    pub(super) fn new(most: u64, mode: Mode, metrics: ServerMetrics) -> Places {
        let permits = usize::try_from(most).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let refusals = match mode {
            Mode::HttpConnect => REFUSALS,
            // HTTP/2 has no words for a connection that is one too many: it is closed.
            Mode::Grpc => 0,
        };
        Places {
            most,
            free: Arc::new(Semaphore::new(permits)),
            refusals: Arc::new(Semaphore::new(refusals)),
            strangers: Arc::default(),
            metrics,
        }
    }

    #[cfg(test)]
    pub(super) fn take(&self) -> Option<Place> {
        self.told(self.find())
    }

    /// `None`: nothing can be done for the connection, unless room is made otherwise.
    pub(super) fn find(&self) -> Option<Place> {
        if let Ok(_permit) = self.free.clone().try_acquire_owned() {
            return Some(Place::Kept { _permit });
        }
        let _permit = self.refusals.clone().try_acquire_owned().ok()?;
        Some(Place::Refused { _permit })
    }

    /// Passes on what came of looking for a place; tells when there was none, and counts who does not hear it.
    pub(super) fn told(&self, found: Option<Place>) -> Option<Place> {
        if found.as_ref().is_none_or(Place::is_refused) {
            self.tell();
        }
        if found.is_none() {
            self.metrics.konduit.refused("frontend", "room");
        }
        found
    }

    /// The log tells of it once in a while, however many find no room or make some for others.
    pub(super) fn tell(&self) {
        tell_no_room(Of::Connections, self.most);
    }

    pub(super) fn strangers(&self) -> MutexGuard<'_, Strangers> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub(super) fn is_refused(&self) -> bool {
        matches!(self, Place::Refused { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::super::stranger::MEANT;
    use super::*;
    use crate::flow::FlowTable;

    /// Places for two, and how often a connection was closed for want of one.
    fn two(mode: Mode) -> (Places, impl Fn() -> u64) {
        let metrics = ServerMetrics::new(&FlowTable::new()).unwrap();
        let registry = metrics.registry().clone();
        let closed = move || {
            let families = registry.gather();
            let name = "konduit_refused_connections_total";
            let family = families.iter().find(|family| family.name() == name);
            family.map_or(0, |family| family.get_metric()[0].get_counter().get_value() as u64)
        };
        (Places::new(2, mode, metrics), closed)
    }

    #[test]
    fn who_finds_no_room_is_told_and_room_comes_back() {
        let (places, closed) = two(Mode::HttpConnect);
        let kept = [places.take().unwrap(), places.take().unwrap()];
        assert!(kept.iter().all(|place| !place.is_refused()));
        let refused: Vec<Place> = (0..REFUSALS).map(|_| places.take().unwrap()).collect();
        assert!(refused.iter().all(Place::is_refused));
        assert_eq!(closed(), 0);
        assert!(places.take().is_none());
        assert_eq!(closed(), 1);
        drop(kept);
        assert!(!places.take().unwrap().is_refused());
    }

    #[test]
    fn whom_nobody_can_tell_is_closed_and_counted() {
        let (places, closed) = two(Mode::Grpc);
        let kept = [places.take().unwrap(), places.take().unwrap()];
        assert!(places.take().is_none());
        assert_eq!(closed(), 1);
        // A stranger gives its place up to another, and nobody is without one.
        drop(kept);
        let _strangers = [(); 3].map(|()| {
            std::thread::sleep(MEANT);
            places.admit().unwrap()
        });
        assert_eq!(closed(), 1);
    }
}
