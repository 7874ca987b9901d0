//! How many servers there are, by their leases. Nobody waits for the API server: there is always a count.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube_client::api::WatchEvent;

use super::options::Options;
use crate::kube::lease::{Leases, expiry};
use crate::kube::{Kube, KubeError};
use crate::ops::metrics::AgentMetrics;

/// Leases are renewed every 15 s: a watch that says nothing for this long is taken for dead, and all are listed anew.
const QUIET: Duration = Duration::from_secs(45);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// Follows the leases that a selector selects.
pub(super) struct LeaseCounter {
    leases: Leases,
    selector: String,
    metrics: AgentMetrics,
    seen: Mutex<Seen>,
}

/// Namespace and name.
type Key = (Option<String>, Option<String>);

struct Seen {
    /// When each stops to count.
    leases: HashMap<Key, Option<Timestamp>>,
    /// The last news of the API server: without any, every lease would expire though its server lives.
    heard: Timestamp,
}

impl Seen {
    fn count(&self) -> usize {
        self.leases.values().flatten().filter(|expiry| **expiry > self.heard).count().max(1)
    }

    fn put(&mut self, lease: &Lease) {
        self.leases.insert(key(lease), expiry(lease));
    }
}

fn key(lease: &Lease) -> Key {
    (lease.metadata.namespace.clone(), lease.metadata.name.clone())
}

impl LeaseCounter {
    pub(super) fn new(options: &Options, kube: &Kube, metrics: &AgentMetrics) -> LeaseCounter {
        LeaseCounter {
            leases: Leases::new(kube, &options.lease_namespace),
            selector: options.lease_label_selector.0.clone(),
            metrics: metrics.clone(),
            seen: Mutex::new(Seen { leases: HashMap::new(), heard: Timestamp::now() }),
        }
    }

    /// Servers with a valid lease, at least 1; while the API server is silent, as many as there were before.
    pub(super) fn count(&self) -> usize {
        self.seen().count()
    }

    /// Follows the leases until dropped.
    pub(super) async fn run(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            let ended = self.follow().await;
            if let Err(error) = &ended {
                tracing::warn!(servers = self.count(), %error, "Cannot count servers by their leases; the count stays");
            }
            if ended.is_ok() && began.elapsed() > FIRST_PAUSE {
                pause = FIRST_PAUSE;
            } else {
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(LAST_PAUSE);
            }
        }
    }

    /// Lists all and follows what changes, until the news end.
    async fn follow(&self) -> Result<(), KubeError> {
        let asked = Instant::now();
        let listed = self.leases.list(&self.selector).await;
        match &listed {
            Ok(_) => self.metrics.leases_listed(200, "", asked.elapsed()),
            Err(error) => {
                if let Some((status, reason)) = error.status() {
                    self.metrics.leases_listed(status, reason, asked.elapsed());
                }
            }
        }
        let listed = listed?;
        {
            let mut seen = self.seen();
            seen.leases.clear();
            listed.items.iter().for_each(|lease| seen.put(lease));
            seen.heard = Timestamp::now();
        }
        let version = listed.metadata.resource_version.unwrap_or_default();
        let watched = self.leases.watch(&self.selector, &version).await;
        match &watched {
            Ok(_) => self.metrics.leases_watched(200, ""),
            Err(error) => {
                if let Some((status, reason)) = error.status() {
                    self.metrics.leases_watched(status, reason);
                }
            }
        }
        let mut events = watched?;
        while let Ok(Some(event)) = tokio::time::timeout(QUIET, events.next()).await {
            let event = event?;
            self.seen().heard = Timestamp::now();
            match event {
                WatchEvent::Added(lease) | WatchEvent::Modified(lease) => self.seen().put(&lease),
                WatchEvent::Deleted(lease) => {
                    self.seen().leases.remove(&key(&lease));
                }
                WatchEvent::Bookmark(_) => {}
                // Most likely 410: the version is too old, and all are listed anew.
                WatchEvent::Error(status) => {
                    tracing::debug!(?status, "The watch of the leases ended");
                    break;
                }
            }
        }
        Ok(())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::SignedDuration;

    use super::*;

    #[test]
    fn leases_expire_only_while_there_is_news() {
        let now = Timestamp::now();
        let later = now + SignedDuration::from_secs(60);
        let at = |seconds| Some(now + SignedDuration::from_secs(seconds));
        let leases = [("a", at(30)), ("b", at(90)), ("c", None)];
        let leases = leases.map(|(name, at)| ((None, Some(name.to_owned())), at));
        let mut seen = Seen { leases: leases.into(), heard: now };
        assert_eq!(seen.count(), 2, "a lease without an expiry does not count");
        seen.heard = later;
        assert_eq!(seen.count(), 1);
        seen.leases.clear();
        assert_eq!(seen.count(), 1, "there is always one server");
    }
}
