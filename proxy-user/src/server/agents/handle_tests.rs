use super::*;
use crate::flow::FlowTable;
use crate::mux::brake::Limits;
use crate::mux::{Dialect, LinkConfig, Role};

fn handle(link: Link) -> AgentHandle {
    let metrics = ServerMetrics::new(&FlowTable::new()).unwrap();
    AgentHandle::new("agent".into(), Identifiers::default(), 1, link, metrics, Fallback::LanesOff)
}

/// A stream that had no time to take a dial is none that takes no dials.
#[tokio::test]
async fn only_a_stream_that_had_time_to_take_a_dial_is_given_up_for_it() {
    for had_time in [false, true] {
        let config = LinkConfig::alone(Role::Dialer, Dialect::OURS, Limits::default());
        let (link, _outlet) = Link::new(config);
        let handle = handle(link.clone());
        let dial = DialId(1);
        let (protocol, address) = ("tcp".into(), "10.0.0.1:80".into());
        link.send(Packet::DialRequest(DialRequest { dial, protocol, address, lane_dial: 0 })).unwrap();
        assert_eq!(handle.timed_out(dial, had_time).reason, DialReason::SendTimeout);
        assert_eq!((link.is_closed(), handle.is_draining()), (had_time, had_time));
    }
}

/// Nobody waits for the answer to a dial that cannot go out.
#[tokio::test]
async fn a_dial_on_a_closed_link_fails_at_once() {
    let config = LinkConfig::alone(Role::Dialer, Dialect::OURS, Limits::default());
    let (link, _outlet) = Link::new(config);
    let handle = handle(link.clone());
    link.close(Ok(()));
    let dialled =
        tokio::time::timeout(Duration::from_secs(20), handle.dial("tcp", "10.0.0.1:80", None)).await;
    let Err(error) = dialled.expect("it is waited for") else { panic!("it was answered") };
    assert_eq!(error, DialError::new(DialReason::SendFailed, "the control stream has ended"));
}
