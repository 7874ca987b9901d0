use super::*;
use crate::flow::FlowTable;
use crate::mux::brake::Limits;
use crate::mux::{Dialect, LinkConfig, Role};

/// Nobody waits for the answer to a dial that cannot go out.
#[tokio::test]
async fn a_dial_on_a_closed_link_fails_at_once() {
    let config = LinkConfig::alone(Role::Dialer, Dialect::OURS, Limits::default());
    let (link, _outlet) = Link::new(config);
    let metrics = ServerMetrics::new(&FlowTable::new()).unwrap();
    let identifiers = Identifiers::default();
    let handle = AgentHandle::new("agent".into(), identifiers, 1, link.clone(), metrics, Fallback::LanesOff);
    link.close(Ok(()));
    let dialled =
        tokio::time::timeout(Duration::from_secs(20), handle.dial("tcp", "10.0.0.1:80", None)).await;
    let Err(error) = dialled.expect("it is waited for") else { panic!("it was answered") };
    assert_eq!(error, DialError::new(DialReason::SendFailed, "the control stream has ended"));
}
