//! An outlet, polled by hand.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake};

use futures_util::Stream;

use super::{Dialect, Limits, Link, LinkConfig, Outlet, Packet, Role, pb};

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
