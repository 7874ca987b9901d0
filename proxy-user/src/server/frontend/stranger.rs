//! Connections whose handshake is under way, or on a Unix socket their first request: whoever reaches the frontend can
//! leave them unfinished.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::places::{Place, Places};
use crate::ops::drain::DrainWatch;

/// The places of all strangers, oldest first.
#[derive(Default)]
pub(super) struct Strangers {
    next: u64,
    held: BTreeMap<u64, Held>,
}

/// How long nobody takes a stranger's place: one that is meant may have spoken already and not been heard.
pub(super) const MEANT: Duration = Duration::from_millis(100);

struct Held {
    place: Place,
    since: Instant,
    /// Dropped when the place goes to another.
    _keeps: oneshot::Sender<Infallible>,
}

/// A connection that has not shown yet who it is. After [`MEANT`] its place goes to a newer one when there is no other.
pub(super) struct Stranger {
    number: u64,
    places: Places,
    lost: oneshot::Receiver<Infallible>,
}

impl Strangers {
    fn add(&mut self, place: Place) -> (u64, oneshot::Receiver<Infallible>) {
        let (_keeps, lost) = oneshot::channel();
        self.next += 1;
        self.held.insert(self.next, Held { place, since: Instant::now(), _keeps });
        (self.next, lost)
    }

    /// The oldest place that has room for a flow.
    fn give_up(&mut self) -> Option<Place> {
        let (&number, oldest) = self.held.iter().find(|(_, held)| !held.place.is_refused())?;
        if oldest.since.elapsed() < MEANT {
            return None;
        }
        self.held.remove(&number).map(|held| held.place)
    }
}

impl Places {
    /// A place for a connection that has to show who it is; `None`: nothing can be done for it.
    pub(super) fn admit(&self) -> Option<Stranger> {
        let mut strangers = self.strangers();
        let place = match self.find() {
            Some(place) if !place.is_refused() => Some(place),
            refused => {
                self.tell();
                strangers.give_up().or(refused)
            }
        };
        let place = self.told(place)?;
        let (number, lost) = strangers.add(place);
        drop(strangers);
        Some(Stranger { number, places: self.clone(), lost })
    }
}

/// Why nothing came of a stranger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unshaken {
    /// Its place went to another.
    MadeRoom,
    /// The server left.
    Left,
}

impl Unshaken {
    /// As a metric's label: the want of room, else `unfinished`.
    pub(super) fn reason(self, unfinished: &'static str) -> &'static str {
        match self {
            Unshaken::MadeRoom => "room",
            Unshaken::Left => unfinished,
        }
    }
}

impl Stranger {
    /// There is no room: it is only heard to be told so.
    pub(super) fn is_refused(&self) -> bool {
        self.places.strangers().held.get(&self.number).is_some_and(|held| held.place.is_refused())
    }

    /// The place, for good, and what came of the handshake or of whatever shows that a client is meant.
    ///
    /// # Errors
    /// The place went to another before, or the server left.
    pub(super) async fn shake<T>(
        mut self,
        handshake: impl Future<Output = T>,
        mut drain: DrainWatch,
    ) -> Result<(Place, T), Unshaken> {
        let shaken = tokio::select! {
            shaken = handshake => shaken,
            _ = &mut self.lost => return Err(Unshaken::MadeRoom),
            () = drain.last_words() => return Err(Unshaken::Left),
        };
        let held = self.places.strangers().held.remove(&self.number).ok_or(Unshaken::MadeRoom)?;
        Ok((held.place, shaken))
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.places.strangers().held.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::time::Duration;

    use super::*;
    use crate::flow::FlowTable;
    use crate::ops::drain;
    use crate::ops::metrics::ServerMetrics;
    use crate::server::options::Mode;

    fn places(most: u64) -> Places {
        Places::new(most, Mode::HttpConnect, ServerMetrics::new(&FlowTable::new()).unwrap())
    }

    #[tokio::test]
    async fn the_oldest_silent_stranger_makes_room_and_nobody_known_does() {
        let (_trigger, drain) = drain::channel();
        let places = places(2);
        let oldest = tokio::spawn(places.admit().unwrap().shake(pending::<()>(), drain.clone()));
        let (known, ()) = places.admit().unwrap().shake(ready(()), drain.clone()).await.unwrap();
        tokio::time::sleep(MEANT).await;
        let newer = places.admit().unwrap();
        assert!(!newer.is_refused());
        assert!(oldest.await.unwrap().is_err_and(|why| why == Unshaken::MadeRoom));
        let (second, ()) = newer.shake(ready(()), drain.clone()).await.unwrap();
        assert!(!known.is_refused() && !second.is_refused());
        let late = places.admit().unwrap();
        assert!(late.is_refused());
        // Somebody whose answer will be a refusal has no room to give.
        assert!(places.admit().unwrap().is_refused());
        drop(second);
        assert!(!places.admit().unwrap().is_refused());
        assert!(late.shake(ready(()), drain.clone()).await.unwrap().0.is_refused());
    }

    #[tokio::test]
    async fn a_stranger_that_leaves_gives_its_place_back() {
        let (_trigger, drain) = drain::channel();
        let places = places(1);
        for _ in 0..3 {
            let stranger = places.admit().unwrap();
            assert!(!stranger.is_refused());
            let handshake = stranger.shake(pending::<()>(), drain.clone());
            assert!(tokio::time::timeout(Duration::from_millis(5), handshake).await.is_err());
            assert!(!places.take().unwrap().is_refused());
        }
        let stranger = places.admit().unwrap();
        tokio::time::sleep(MEANT).await;
        drop(places.admit().unwrap());
        assert!(stranger.shake(pending::<()>(), drain.clone()).await.is_err());
        assert!(!places.take().unwrap().is_refused());
    }

    #[tokio::test]
    async fn a_server_that_leaves_waits_a_moment_for_strangers() {
        let (trigger, drain) = drain::channel();
        let places = places(2);
        trigger.start();
        let silent = places.admit().unwrap().shake(pending::<()>(), drain.clone());
        let slow = places.admit().unwrap().shake(tokio::time::sleep(Duration::from_millis(20)), drain);
        let (silent, slow) = tokio::join!(silent, slow);
        assert!(silent.is_err_and(|why| why == Unshaken::Left) && slow.is_ok());
    }
}
