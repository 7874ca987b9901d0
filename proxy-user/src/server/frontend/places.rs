//! Room for the connections of API servers: descriptors are set aside when one is accepted, not when it dials.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::stranger::Strangers;
use crate::net::room::{Of, tell_no_room};

/// Connections without room that may be told so at a time; the others are closed at once.
const REFUSALS: usize = 32;

/// How many connections there may be. Clones share them.
#[derive(Clone)]
pub(super) struct Places {
    most: u64,
    free: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    strangers: Arc<Mutex<Strangers>>,
}

/// A connection's place, given back when dropped.
pub(super) enum Place {
    /// Room for the connection and for the way to its target.
    Kept { _permit: OwnedSemaphorePermit },
    /// Room to say that there is none.
    Refused { _permit: OwnedSemaphorePermit },
}

impl Places {
    pub(super) fn new(most: u64) -> Places {
        let permits = usize::try_from(most).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Places {
            most,
            free: Arc::new(Semaphore::new(permits)),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            strangers: Arc::default(),
        }
    }

    /// `None`: nothing can be done for the connection.
    pub(super) fn take(&self) -> Option<Place> {
        self.told(self.find())
    }

    /// As [`Places::take`], for whoever may still make room otherwise.
    pub(super) fn find(&self) -> Option<Place> {
        if let Ok(_permit) = self.free.clone().try_acquire_owned() {
            return Some(Place::Kept { _permit });
        }
        let _permit = self.refusals.clone().try_acquire_owned().ok()?;
        Some(Place::Refused { _permit })
    }

    /// Passes on what came of looking for a place, and tells when there was none.
    pub(super) fn told(&self, found: Option<Place>) -> Option<Place> {
        if found.as_ref().is_none_or(Place::is_refused) {
            tell_no_room(Of::Connections, self.most);
        }
        found
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
    use super::*;

    #[test]
    fn who_finds_no_room_is_told_and_room_comes_back() {
        let places = Places::new(2);
        let kept = [places.take().unwrap(), places.take().unwrap()];
        assert!(kept.iter().all(|place| !place.is_refused()));
        let refused: Vec<Place> = (0..REFUSALS).map(|_| places.take().unwrap()).collect();
        assert!(refused.iter().all(Place::is_refused));
        assert!(places.take().is_none());
        drop(kept);
        assert!(!places.take().unwrap().is_refused());
    }
}
