//! An outlet, polled by hand.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake};

use futures_util::Stream;

use super::{DialId, Dialect, Limits, Link, LinkConfig, Outlet, Packet, Role, pb};
use crate::flow::{DialError, DialReason};
use crate::wire::packet::DialResponse;
use crate::wire::pb::packet::Payload;

#[tokio::test]
async fn an_idle_outlet_lets_others_add_their_packets_before_it_sends() {
    let (link, outlet) = Link::new(LinkConfig::alone(Role::Dialer, Dialect::OURS, Limits::default()));
    let mut outlet = ByHand { outlet, wakes: Arc::default() };
    assert!(outlet.poll().is_none());
    link.send(Packet::Drain).unwrap();
    assert!(outlet.take_wakes() > 0);
    assert!(outlet.poll().is_none(), "others run first");
    assert!(outlet.take_wakes() > 0, "it asks to run again");
    link.send(Packet::WantLanes { lanes: 1 }).unwrap();
    assert!(outlet.poll().is_some() && outlet.poll().is_some());
    assert!(outlet.poll().is_none());
    assert_eq!(outlet.take_wakes(), 0, "nothing is left to wake up for");
}

/// Upstream's server would hand what it does not know on to its clients.
#[tokio::test]
async fn only_a_peer_of_ours_is_told_the_reason_of_a_failed_dial() {
    for (dialect, reason) in [(Dialect::OURS, DialReason::Refused as u32), (Dialect::Upstream, 0)] {
        let (link, outlet) = Link::new(LinkConfig::alone(Role::Acceptor, dialect, Limits::default()));
        let mut outlet = ByHand { outlet, wakes: Arc::default() };
        let outcome = Err(DialError::new(DialReason::Refused, "no"));
        link.send(Packet::DialResponse(DialResponse { dial: DialId(1), outcome })).unwrap();
        let Some(Payload::DialResponse(sent)) = outlet.poll().and_then(|packet| packet.payload) else {
            panic!("no DIAL_RSP")
        };
        assert_eq!((sent.reason, sent.error.as_str()), (reason, "no"), "{dialect:?}");
    }
}

/// An outlet that is polled by hand.
struct ByHand {
    outlet: Outlet,
    wakes: Arc<Wakes>,
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl ByHand {
    /// A packet, if there is one now.
    fn poll(&mut self) -> Option<pb::Packet> {
        let waker = self.wakes.clone().into();
        match Pin::new(&mut self.outlet).poll_next(&mut Context::from_waker(&waker)) {
            Poll::Ready(Some(packet)) => Some(packet.unwrap()),
            Poll::Ready(None) => panic!("the stream has ended"),
            Poll::Pending => None,
        }
    }

    fn take_wakes(&self) -> usize {
        self.wakes.0.swap(0, Ordering::SeqCst)
    }
}
