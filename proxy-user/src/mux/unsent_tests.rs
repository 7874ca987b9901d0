use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt;

use super::*;
use crate::mux::brake::Limits;
use crate::wire::packet::DialRequest;

#[derive(Default)]
struct Unsent(Mutex<Vec<&'static str>>);

impl Observer for Unsent {
    fn unsent(&self, kind: &'static str) {
        self.0.lock().unwrap().push(kind);
    }
}

/// A dial and a flow's bytes wait to be sent when the stream ends, which the link hears before its outlet is dropped or
/// after.
async fn left_by(end: Result<(), Status>, first: bool) -> Vec<&'static str> {
    let observer = Arc::new(Unsent::default());
    let (link, outlet) = Link::new(LinkConfig {
        role: Role::Dialer,
        dialect: Dialect::Upstream,
        pool: Pool::new(Limits::default()),
        observer: observer.clone(),
        pulse: Pulse::default(),
    });
    let mut flow = link.attach(ConnId(1)).unwrap();
    let _idle = link.attach(ConnId(2)).unwrap();
    flow.write_all(b"waiting").await.unwrap();
    let (dial, protocol, address) = (DialId(1), "tcp".to_owned(), "a:80".to_owned());
    link.send(Packet::DialRequest(DialRequest { dial, protocol, address, lane_dial: 0 })).unwrap();
    if first {
        link.close(end);
        drop(outlet);
    } else {
        drop(outlet);
        link.close(end);
    }
    let mut unsent = observer.0.lock().unwrap().clone();
    unsent.sort_unstable();
    unsent
}

#[tokio::test]
async fn what_waits_to_be_sent_counts_when_the_stream_fails_and_not_when_it_ends() {
    for first in [true, false] {
        assert_eq!(left_by(Err(Status::cancelled("")), first).await, ["DATA", "DIAL_REQ"], "{first}");
        assert!(left_by(Ok(()), first).await.is_empty(), "{first}");
    }
}
