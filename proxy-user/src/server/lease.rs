//! A server's lease: published, renewed, deleted at the end, and the leases of servers that died collected. Agents
//! count servers by them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

use super::options::Options;
use crate::kube::lease::{Leases, is_valid};
use crate::kube::{Kube, KubeError};
use crate::ops::drain::DrainWatch;
use crate::ops::metrics::ServerMetrics;

/// Upstream's times.
const LASTS: i32 = 30;
const EVERY: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(7);
const TRIES: u32 = 5;
/// An API server that does not answer must not hold up the end of this one; the lease expires by itself.
const DELETION: Duration = Duration::from_millis(1500);

/// What upstream names a server's lease.
pub(super) fn name(server_id: &str) -> String {
    format!("konnectivity-proxy-server-{server_id}")
}

/// Keeps one server's lease until the server drains.
pub struct LeaseController {
    leases: Leases,
    name: String,
    holder: String,
    labels: BTreeMap<String, String>,
    metrics: ServerMetrics,
}

impl LeaseController {
    pub fn new(options: &Options, kube: &Kube, metrics: &ServerMetrics) -> LeaseController {
        // Checked with the options: each is key=value.
        let pairs = options.lease_label.split(',').filter_map(|pair| pair.split_once('='));
        LeaseController {
            leases: Leases::new(kube, &options.lease_namespace),
            name: name(&options.server_id),
            holder: options.server_id.clone(),
            labels: pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect(),
            metrics: metrics.clone(),
        }
    }

    /// Publishes until the drain begins: from then on agents need not look for this server.
    pub async fn run(self, mut drain: DrainWatch) {
        tokio::select! {
            () = drain.draining() => {}
            never = self.publish() => match never {},
            never = self.collect() => match never {},
        }
        match tokio::time::timeout(DELETION, self.leases.delete(&self.name, None)).await {
            Ok(Ok(())) => tracing::info!(lease = self.name, "Deleted this server's lease"),
            Ok(Err(error)) if error.is(404) => {}
            Ok(Err(error)) => {
                tracing::warn!(lease = self.name, %error, "This server's lease stays until it expires");
            }
            Err(_) => tracing::warn!(lease = self.name, "This server's lease stays until it expires"),
        }
    }

    async fn publish(&self) -> Infallible {
        let mut last = None;
        let mut failing = true;
        loop {
            match self.renew(&mut last).await {
                Ok(()) if failing => tracing::info!(lease = self.name, "Publishing this server's lease"),
                Ok(()) => {}
                Err(error) => tracing::warn!(
                    lease = self.name, %error,
                    "The lease was not renewed; agents that count leases miss this server once it is expired"
                ),
            }
            // `renew` leaves what it wrote, or nothing.
            failing = last.is_none();
            tokio::time::sleep(if failing { LAST_PAUSE } else { jitter(EVERY) }).await;
        }
    }

    /// Writes a fresh time to the lease, `last` as it was written before. Somebody may have changed or deleted it.
    async fn renew(&self, last: &mut Option<Lease>) -> Result<(), KubeError> {
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        loop {
            let before = last.take();
            let written = match before {
                Some(before) => self.leases.replace(&self.name, &self.lease(Some(before))).await,
                None => match self.leases.get(&self.name).await {
                    Ok(found) => self.leases.replace(&self.name, &self.lease(Some(found))).await,
                    Err(error) if error.is(404) => self.leases.create(&self.lease(None)).await,
                    Err(error) => Err(error),
                },
            };
            tries += 1;
            match written {
                Ok(lease) => {
                    *last = Some(lease);
                    return Ok(());
                }
                Err(error) if tries == TRIES => return Err(error),
                // Changed, deleted or created by somebody else: read it at once.
                Err(error) if error.is(409) || error.is(404) => {}
                Err(error) => {
                    tracing::debug!(lease = self.name, %error, ?pause, "Trying once more");
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(LAST_PAUSE);
                }
            }
        }
    }

    fn lease(&self, before: Option<Lease>) -> Lease {
        let before = before.unwrap_or_default();
        let spec = before.spec.unwrap_or_default();
        let holder_identity = spec.holder_identity.or_else(|| Some(self.holder.clone()));
        let renew_time = Some(MicroTime(Timestamp::now()));
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(self.labels.clone()),
                ..before.metadata
            },
            spec: Some(LeaseSpec {
                holder_identity,
                lease_duration_seconds: Some(LASTS),
                renew_time,
                ..spec
            }),
        }
    }

    async fn collect(&self) -> Infallible {
        let pairs: Vec<String> = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let selector = pairs.join(",");
        loop {
            self.collect_once(&selector).await;
            tokio::time::sleep(jitter(EVERY)).await;
        }
    }

    async fn collect_once(&self, selector: &str) {
        let asked = Instant::now();
        let listed = self.leases.list(selector).await;
        if let Some((status, reason)) = outcome(&listed) {
            self.metrics.leases_listed(status, reason, asked.elapsed());
        }
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => return tracing::warn!(%error, "Cannot look for expired leases"),
        };
        let now = Timestamp::now();
        for lease in listed.items.iter().filter(|lease| !is_valid(lease, now)) {
            let Some(name) = lease.metadata.name.as_deref() else { continue };
            let asked = Instant::now();
            // Its version: it may have been renewed since it was listed.
            let deleted = self.leases.delete(name, lease.metadata.resource_version.clone()).await;
            if let Some((status, reason)) = outcome(&deleted) {
                self.metrics.lease_deleted(status, reason, asked.elapsed());
            }
            match deleted {
                Ok(()) => {
                    self.metrics.lease_culled();
                    tracing::info!(lease = name, "Deleted an expired lease");
                }
                Err(error) if error.is(404) => tracing::debug!(lease = name, "Deleted by another already"),
                Err(error) => tracing::warn!(lease = name, %error, "Cannot delete an expired lease"),
            }
        }
    }
}

/// What upstream counts: answers, not the lack of one.
fn outcome<T>(result: &Result<T, KubeError>) -> Option<(u16, &str)> {
    match result {
        Ok(_) => Some((200, "")),
        Err(error) => error.status(),
    }
}

/// Up to 4 % longer.
pub(super) fn jitter(pause: Duration) -> Duration {
    let mut byte = [0; 1];
    // Without random bytes there is no jitter.
    let _ = getrandom::fill(&mut byte);
    pause.mul_f64(1.0 + 0.04 * f64::from(byte[0]) / 255.0)
}
