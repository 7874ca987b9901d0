//! Whether API servers still find a frontend's Unix socket: nobody tells a listener that its file is gone.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::net::uds::{Claim, Leads};
use crate::ops::drain::DrainWatch;
use crate::ops::metrics::KonduitMetrics;

/// How often the path is looked at. A fault is told at the second look: of two servers that replace each other both are
/// there for a moment.
pub(super) const POLL: Duration = Duration::from_secs(5);

/// Tells in log and metric when the path leads elsewhere, once, and when it leads here again; until the drain begins,
/// from which on it is a successor's.
pub(super) async fn watch(claim: Claim, metrics: KonduitMetrics, poll: Duration, mut drain: DrainWatch) {
    let mut tick = tokio::time::interval(poll);
    // A process that stood still looks twice with time between the looks, too.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut before, mut told) = (Leads::ToIt, Leads::ToIt);
    metrics.frontend_socket(true);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = drain.draining() => return,
        }
        let now = claim.leads();
        if now == before && now != told {
            tell(now, &claim);
            metrics.frontend_socket(now == Leads::ToIt);
            told = now;
        }
        before = now;
    }
}

fn tell(now: Leads, claim: &Claim) {
    let path = claim.path();
    match now {
        Leads::ToIt => tracing::info!("API servers find the frontend's socket {path:?} again"),
        Leads::Nowhere => tracing::error!(
            "The file of the frontend's socket {path:?} was removed, so that no API server finds this server any more: \
             restart it, and let nothing else remove that file"
        ),
        Leads::Elsewhere => tracing::error!(
            "Another process put its own file in the place of the frontend's socket {path:?}, so that no API server \
             finds this server any more: end one of the two, or give each its own --uds-name and restart this one"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::flow::FlowTable;
    use crate::net::uds::UdsListener;
    use crate::ops::drain;
    use crate::ops::metrics::ServerMetrics;

    const POLL: Duration = Duration::from_millis(2);

    fn in_place(metrics: &ServerMetrics) -> i64 {
        let families = metrics.registry().gather();
        let family = families.iter().find(|family| family.name() == "konduit_frontend_socket_in_place");
        family.map_or(-1, |family| family.get_metric()[0].get_gauge().get_value() as i64)
    }

    async fn until(metrics: &ServerMetrics, wanted: i64) {
        let found = tokio::time::timeout(Duration::from_secs(30), async {
            while in_place(metrics) != wanted {
                tokio::time::sleep(POLL).await;
            }
        });
        found.await.unwrap_or_else(|_| panic!("never {wanted}"));
    }

    #[tokio::test]
    async fn a_file_that_is_moved_away_or_replaced_counts_until_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let [path, aside] = ["s.sock", "aside"].map(|name| dir.path().join(name));
        let listener = UdsListener::bind(&path, true).unwrap();
        let metrics = ServerMetrics::new(&FlowTable::new()).unwrap();
        let (trigger, drain) = drain::channel();
        let watching = tokio::spawn(watch(listener.claim(), metrics.konduit.clone(), POLL, drain));
        until(&metrics, 1).await;
        fs::rename(&path, &aside).unwrap();
        until(&metrics, 0).await;
        fs::rename(&aside, &path).unwrap();
        until(&metrics, 1).await;
        let successor = UdsListener::bind(&path, true).unwrap();
        until(&metrics, 0).await;
        trigger.start();
        watching.await.unwrap();
        drop(listener);
        assert_eq!(successor.claim().leads(), Leads::ToIt);
    }

    #[tokio::test]
    async fn a_successor_in_a_drain_is_no_fault() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let listener = UdsListener::bind(&path, true).unwrap();
        let metrics = ServerMetrics::new(&FlowTable::new()).unwrap();
        let (trigger, drain) = drain::channel();
        trigger.start();
        let _successor = UdsListener::bind(&path, true).unwrap();
        let watching = watch(listener.claim(), metrics.konduit.clone(), POLL, drain);
        tokio::time::timeout(Duration::from_secs(30), watching).await.unwrap();
        assert_eq!(in_place(&metrics), 1);
    }
}
