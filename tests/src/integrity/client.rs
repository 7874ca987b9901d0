//! The client's end of one flow.

use std::io::Write;
use std::net::Shutdown;
use std::thread;

use super::drive::{STUCK, finish_sending, is_timeout, judge, receive, send, turn, words};
use super::plan::{Plan, Shape};
use super::tally::Fault;
use super::target::CheckedTarget;
use crate::load::Way;

type Faults = Vec<(u64, Shape, &'static str, Fault)>;

/// Runs one flow to its end at both ends. Returns the bytes that arrived, and what was wrong.
pub(super) fn one_flow(way: &Way, target: &CheckedTarget, plan: &Plan) -> (u64, Faults) {
    let mut conn = match way.dial() {
        Ok(conn) => conn,
        Err(error) => return (0, fault(plan, "client", Fault::NotDialled(words(&error)))),
    };
    let verdict = target.expect(plan.clone(), !conn.is_unix());
    let opened = conn
        .set_timeout(Some(STUCK))
        .and_then(|()| conn.write_all(&plan.flow.to_le_bytes()))
        .and_then(|()| conn.try_clone());
    let mut reading = match opened {
        Ok(reading) => reading,
        Err(error) => return (0, fault(plan, "client", Fault::NotDialled(words(&error)))),
    };
    // A Unix socket's peer cannot send a reset, so only TCP clients can tell an abort from an end.
    let strict = !conn.is_unix();
    let (down_ended, told) = turn();
    let mut faults = Vec::new();
    let ((sent, sending), (came, how)) = thread::scope(|scope| {
        let reader = scope.spawn(|| receive(&mut reading, &plan.down, plan.flow, false, down_ended));
        let outcome = send(&mut conn, &plan.up, plan.flow, true, &told);
        match plan.up.abort_at {
            None => finish_sending(&conn, &plan.up),
            // The reader must not hold the socket open when the abort comes.
            Some(_) => {
                verdict.until_known();
                drop(conn.shutdown(Shutdown::Read));
            }
        }
        (outcome, reader.join().expect("a reader never panics"))
    });
    drop(reading);
    match plan.up.abort_at {
        Some(_) => conn.abort(),
        None => drop(conn),
    }
    let aborted = plan.aborts();
    // The kernel tells an abort once, to whoever asks first.
    let told = sending.is_err();
    if let Err(error) = sending
        && (!aborted || is_timeout(&error))
    {
        let of = plan.up.bytes;
        faults.extend(fault(plan, "client sending", Fault::Broken { at: sent, of, why: words(&error) }));
    }
    // What a client that aborts still reads is nobody's business but the contents.
    let own_abort = plan.up.abort_at.is_some();
    if let Some(wrong) = judge(&plan.down, aborted, strict && !own_abort && !told, came, how) {
        faults.extend(fault(plan, "client", wrong));
    }
    let (arrived, wrong) = verdict.wait();
    faults.extend(wrong.into_iter().flat_map(|wrong| fault(plan, "target", wrong)));
    (came + arrived, faults)
}

fn fault(plan: &Plan, end: &'static str, fault: Fault) -> Faults {
    vec![(plan.flow, plan.shape, end, fault)]
}
