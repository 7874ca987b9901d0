//! The target's end: learns from a flow's first eight bytes which flow it is, and does its half of the plan.

use std::collections::HashMap;
use std::io::{Read, Result};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::drive::{STUCK, finish_sending, is_timeout, judge, receive, send, turn, words};
use super::plan::Plan;
use super::tally::Fault;
use crate::load::Conn;

/// The client has ended its flow; the target's end must hear of it in this time.
const AFTER_CLIENT: Duration = Duration::from_secs(50);

pub struct CheckedTarget {
    pub address: SocketAddr,
    expected: Arc<Mutex<HashMap<u64, Expected>>>,
}

struct Expected {
    plan: Plan,
    /// Whether the client can abort so that a peer must see it.
    strict: bool,
    greet: SyncSender<()>,
    tell: SyncSender<(u64, Vec<Fault>)>,
}

/// What the target will say about one flow.
pub(super) struct Verdict {
    greeting: Receiver<()>,
    told: Receiver<(u64, Vec<Fault>)>,
}

impl CheckedTarget {
    /// Its thread goes on until the process ends.
    pub fn start(address: SocketAddr) -> Result<CheckedTarget> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let expected: Arc<Mutex<HashMap<u64, Expected>>> = Arc::default();
        let known = expected.clone();
        thread::Builder::new().name("checked-target".into()).spawn(move || {
            for socket in listener.incoming().flatten() {
                let known = known.clone();
                let spawned =
                    thread::Builder::new().stack_size(256 << 10).spawn(move || serve(socket, &known));
                if let Err(error) = spawned {
                    eprintln!("checked target: no thread for a flow: {error}");
                }
            }
        })?;
        Ok(CheckedTarget { address, expected })
    }

    pub(super) fn expect(&self, plan: Plan, strict: bool) -> Verdict {
        let (tell, told) = sync_channel(1);
        let (greet, greeting) = sync_channel(1);
        let flow = plan.flow;
        let entry = Expected { plan, strict, greet, tell };
        self.expected.lock().expect("no panic while it is held").insert(flow, entry);
        Verdict { greeting, told }
    }
}

impl Verdict {
    /// Waits until the target knows which flow it is. An abort before that may destroy the flow's number on the way (a
    /// second after it, on a link that loses), and then nobody could tell whose end the target saw.
    pub(super) fn until_known(&self) {
        // A flow that never arrives is told of by `wait`.
        let _ = self.greeting.recv_timeout(STUCK);
    }

    /// Bytes that arrived at the target, and what was wrong there.
    pub(super) fn wait(&self) -> (u64, Vec<Fault>) {
        match self.told.recv_timeout(AFTER_CLIENT) {
            Ok(verdict) => verdict,
            Err(_) => (
                0,
                vec![Fault::Broken { at: 0, of: 0, why: "the target never heard of the flow's end".into() }],
            ),
        }
    }
}

fn serve(socket: TcpStream, known: &Mutex<HashMap<u64, Expected>>) {
    let mut conn = Conn::Tcp(socket);
    let mut number = [0; 8];
    if conn.set_timeout(Some(STUCK)).and_then(|()| conn.read_exact(&mut number)).is_err() {
        // A dial without a first byte: its client knows more about it.
        return;
    }
    let entry = known.lock().expect("no panic while it is held").remove(&u64::from_le_bytes(number));
    let Some(Expected { plan, strict, greet, tell }) = entry else { return };
    // Only who aborts waits for it.
    let _ = greet.try_send(());
    let verdict = run(conn, &plan, strict);
    // The client may have given up waiting.
    let _ = tell.try_send(verdict);
}

fn run(mut conn: Conn, plan: &Plan, strict: bool) -> (u64, Vec<Fault>) {
    let mut reading = match conn.try_clone() {
        Ok(reading) => reading,
        Err(error) => return (0, vec![Fault::NotDialled(error.to_string())]),
    };
    let (up_ended, told) = turn();
    let ((sent, sending), (came, how)) = thread::scope(|scope| {
        let reader = scope.spawn(|| receive(&mut reading, &plan.up, plan.flow, true, up_ended));
        let outcome = send(&mut conn, &plan.down, plan.flow, false, &told);
        match plan.down.abort_at {
            None => finish_sending(&conn, &plan.down),
            // Only closing the last descriptor sends the reset, so the reader has to leave first.
            Some(_) => drop(conn.shutdown(std::net::Shutdown::Read)),
        }
        (outcome, reader.join().expect("a reader never panics"))
    });
    drop(reading);
    match plan.down.abort_at {
        Some(_) => conn.abort(),
        None => drop(conn),
    }
    let aborted = plan.aborts();
    let own_abort = plan.down.abort_at.is_some();
    // The kernel tells an abort once, to whoever asks first.
    let strict = strict && !own_abort && sending.is_ok();
    let mut faults: Vec<Fault> = judge(&plan.up, aborted, strict, came, how).into_iter().collect();
    if let Err(error) = sending
        && (!aborted || is_timeout(&error))
    {
        faults.push(Fault::Broken {
            at: sent,
            of: plan.down.bytes,
            why: format!("sending: {}", words(&error)),
        });
    }
    (came, faults)
}
