//! A server that reads nothing and then ends the stream: the agent counts what it could not send.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proxy_tests::targets::Target;
use tokio::io::AsyncWriteExt;

use crate::puppet::{Puppet, dial};

/// What the played server grants without reading, and more.
const FIRST_WINDOW: u64 = 64 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_counts_the_packets_that_it_could_not_send() {
    let written = Arc::new(AtomicU64::new(0));
    let count = written.clone();
    let target = Target::start(move |mut stream| {
        let count = count.clone();
        async move {
            while stream.write_all(&[7; 16 << 10]).await.is_ok() {
                count.fetch_add(16 << 10, Ordering::Relaxed);
            }
        }
    })
    .await
    .unwrap();
    for ours in [false, true] {
        let mut round = 0;
        while !one_round(ours, &target, &written).await {
            round += 1;
            assert!(round < 6, "{ours}: never counted");
        }
    }
}

/// Whether the packet that waited was counted, once. It is not where the gRPC library lets go of the agent's half of the
/// stream before it tells of the reset, which it does now and then: then nothing is.
async fn one_round(ours: bool, target: &Target, written: &AtomicU64) -> bool {
    let puppet = Puppet::start(ours);
    let sending = [("segment", "from_agent"), ("code", "Unavailable"), ("packet_type", "DATA")];
    let to_server = [("direction", "to_server")];
    let counted = || {
        let errors = puppet.count("stream_errors_total", &sending);
        (errors, puppet.count("server_connection_failure_count", &to_server))
    };
    let mut call = puppet.stream().await;
    let first = written.load(Ordering::Relaxed) + FIRST_WINDOW;
    dial(&mut call, &target.name()).await;
    assert_eq!(counted(), (0.0, 0.0));
    // Until nothing moves any more: every window and buffer on the way is full.
    let (mut before, mut same) = (0, 0);
    while same < 4 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = written.load(Ordering::Relaxed);
        same = if now == before && now > first { same + 1 } else { 0 };
        before = now;
    }
    call.send.send_reset(h2::Reason::INTERNAL_ERROR);
    puppet.agent_has_nothing_left("at the end").await;
    let seen = counted();
    assert!([(1.0, 1.0), (0.0, 0.0)].contains(&seen), "{ours}: {seen:?}");
    seen == (1.0, 1.0)
}
