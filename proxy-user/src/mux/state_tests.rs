use super::*;

fn flow(role: Role, dialect: Dialect) -> FlowState {
    FlowState::new(role, dialect)
}

fn sends(closing: Closing) -> Step {
    Step { send: Some(closing), ..Step::default() }
}

#[test]
fn between_our_ends_each_direction_ends_by_itself() {
    for role in [Role::Dialer, Role::Acceptor] {
        let mut state = flow(role, Dialect::OURS);
        assert_eq!(state.step(Event::Shutdown), sends(Closing::Fin));
        assert!(state.is_reading() && !state.is_over());
        assert_eq!(state.step(Event::PeerFin), Step { read: Some(ReadEnd::Eof), ..Step::default() });
        assert!(state.is_over());
        assert_eq!(state.step(Event::Abort), Step::default(), "a drop after both ends says nothing");
    }
}

#[test]
fn between_our_ends_an_abort_is_a_reset_on_the_other_side() {
    let mut here = flow(Role::Acceptor, Dialect::OURS);
    let aborted = here.step(Event::Abort);
    assert_eq!((aborted.send, here.is_over()), (Some(Closing::Reset), true));
    let mut there = flow(Role::Dialer, Dialect::OURS);
    let seen = there.step(Event::PeerReset);
    assert_eq!(seen, Step { send: None, read: Some(ReadEnd::Reset), broken: true });
    assert!(there.is_over());
}

#[test]
fn upstreams_agent_still_sends_what_it_had_read_after_a_close_request() {
    let mut state = flow(Role::Dialer, Dialect::Upstream);
    assert_eq!(state.step(Event::Shutdown), sends(Closing::CloseRequest));
    assert!(state.is_reading());
    let end = state.step(Event::PeerCloseResponse { failed: false });
    assert_eq!(end, Step { send: None, read: Some(ReadEnd::Eof), broken: false });
    assert!(state.is_over());
}

#[test]
fn upstreams_agent_closing_ends_both_directions_and_is_not_answered() {
    let mut state = flow(Role::Dialer, Dialect::Upstream);
    let end = state.step(Event::PeerCloseResponse { failed: false });
    assert_eq!(end, Step { send: None, read: Some(ReadEnd::Eof), broken: true });
    assert_eq!(state.step(Event::Shutdown), Step::default());
}

#[test]
fn one_close_request_is_enough() {
    let mut state = flow(Role::Dialer, Dialect::Upstream);
    state.step(Event::Shutdown);
    let aborted = state.step(Event::Abort);
    assert_eq!(aborted, Step { send: None, read: Some(ReadEnd::Reset), broken: true });
    assert!(!state.is_over(), "the agent's CLOSE_RSP is still to come");
    assert_eq!(state.step(Event::Abort), Step::default());
    state.step(Event::PeerCloseResponse { failed: false });
    assert!(state.is_over());
}

#[test]
fn upstreams_server_is_answered_once_and_both_directions_end() {
    let mut state = flow(Role::Acceptor, Dialect::Upstream);
    let end = state.step(Event::PeerCloseRequest);
    assert_eq!(end, Step { send: Some(Closing::CloseResponse), read: Some(ReadEnd::Eof), broken: true });
    assert!(state.is_over());
    assert_eq!(state.step(Event::Shutdown), Step::default());
    assert_eq!(state.step(Event::Abort), Step::default());
}

#[test]
fn a_target_that_ends_closes_the_flow_towards_upstreams_server() {
    let mut state = flow(Role::Acceptor, Dialect::Upstream);
    let end = state.step(Event::Shutdown);
    assert_eq!(end, Step { send: Some(Closing::CloseResponse), read: Some(ReadEnd::Eof), broken: true });
    assert!(state.is_over());
}

#[test]
fn a_lost_stream_is_a_reset_and_sends_nothing() {
    for role in [Role::Dialer, Role::Acceptor] {
        for dialect in [Dialect::OURS, Dialect::Upstream] {
            let mut state = flow(role, dialect);
            assert_eq!(
                state.step(Event::PeerGone),
                Step { send: None, read: Some(ReadEnd::Reset), broken: true }
            );
            assert!(state.is_over());
        }
    }
}

/// Whatever happens in whatever order: reading ends at most once, at most one closing of each kind is sent, and
/// nothing is asked of a flow that is over but a response to a late CLOSE_REQ.
#[test]
fn every_order_of_four_events_keeps_the_promises() {
    let events = [
        Event::PeerFin,
        Event::PeerReset,
        Event::PeerCloseRequest,
        Event::PeerCloseResponse { failed: false },
        Event::PeerCloseResponse { failed: true },
        Event::PeerGone,
        Event::Shutdown,
        Event::Abort,
    ];
    let count = events.len();
    for role in [Role::Dialer, Role::Acceptor] {
        for dialect in [Dialect::OURS, Dialect::Upstream] {
            for order in 0..count.pow(4) {
                let picked = (0..4u32).map(|i| events[order / count.pow(i) % count]);
                let mut state = flow(role, dialect);
                let (mut reads, mut sent) = (0, Vec::new());
                for event in picked {
                    let was_over = state.is_over();
                    let step = state.step(event);
                    assert!(!(was_over && step != Step::default()), "{event:?} moved a flow that was over");
                    reads += usize::from(step.read.is_some());
                    sent.extend(step.send);
                }
                assert!(reads <= 1);
                let before = sent.len();
                sent.dedup();
                assert_eq!(sent.len(), before, "sent the same closing twice");
            }
        }
    }
}
