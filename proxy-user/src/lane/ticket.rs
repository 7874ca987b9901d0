//! The ticket of a control stream: what an agent shows on every lane it opens.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq as _;

use crate::net::tls::Identity;

/// Streams whose end is remembered, so that a late lane is told what happened.
const ENDED_REMEMBERED: usize = 1024;
/// Addresses whose failed hellos are counted at a time.
const ADDRESSES_REMEMBERED: usize = 4096;
const FAILURE_WINDOW: Duration = Duration::from_secs(60);
/// Failed hellos in the window after which a stream gets no further lanes.
pub const FAILURES_PER_STREAM: u32 = 32;
/// Failed hellos in the window after which an address is refused unheard.
pub const FAILURES_PER_ADDRESS: u32 = 64;

const MARK: usize = 4;

/// Names a control stream; public. The first four bytes name the server process that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamNumber([u8; 16]);

/// Good for any number of lanes while its control stream lives. Travels inside TLS only and is never printed.
#[derive(Clone)]
pub struct Ticket {
    pub(super) stream: StreamNumber,
    pub(super) secret: [u8; 32],
}

/// Why a server did not keep a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    #[error("no control stream has this number")]
    UnknownStream,
    #[error("the ticket's secret is wrong")]
    WrongSecret,
    #[error("the control stream of this ticket has ended")]
    EndedStream,
    #[error("the lane came under another client certificate than its control stream")]
    OtherCertificate,
    #[error("the ticket is another server's")]
    OtherServer,
    #[error("the control stream has as many lanes as it may have")]
    TooManyLanes,
    #[error("too many lanes were refused lately")]
    TooManyFailures,
    #[error("no lane is wanted now")]
    NotWanted,
    #[error("the dial this lane was opened for is over")]
    NoSuchDial,
}

impl Refusal {
    pub const ALL: [Refusal; 9] = [
        Refusal::UnknownStream,
        Refusal::WrongSecret,
        Refusal::EndedStream,
        Refusal::OtherCertificate,
        Refusal::OtherServer,
        Refusal::TooManyLanes,
        Refusal::TooManyFailures,
        Refusal::NotWanted,
        Refusal::NoSuchDial,
    ];

    /// As a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::UnknownStream => "unknown_stream",
            Refusal::WrongSecret => "wrong_secret",
            Refusal::EndedStream => "ended_stream",
            Refusal::OtherCertificate => "other_certificate",
            Refusal::OtherServer => "other_server",
            Refusal::TooManyLanes => "too_many_lanes",
            Refusal::TooManyFailures => "too_many_failures",
            Refusal::NotWanted => "not_wanted",
            Refusal::NoSuchDial => "no_such_dial",
        }
    }

    /// Whether it speaks of an attack or a fault rather than of timing.
    fn is_failure(self) -> bool {
        matches!(
            self,
            Refusal::UnknownStream | Refusal::WrongSecret | Refusal::OtherCertificate | Refusal::OtherServer
        )
    }
}

/// A ticket text that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server's lane ticket is not 96 hexadecimal digits")]
pub struct TicketError;

impl Ticket {
    /// For the metadata of the control stream: 96 hexadecimal digits.
    pub fn to_text(&self) -> String {
        self.stream.0.iter().chain(&self.secret).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Ticket, TicketError> {
        if text.len() != 96 || !text.is_ascii() {
            return Err(TicketError);
        }
        let mut bytes = [0; 48];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = str::from_utf8(digits).map_err(|_| TicketError)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| TicketError)?;
        }
        let (stream, secret) = bytes.split_at(16);
        Ok(Ticket {
            stream: StreamNumber(stream.try_into().map_err(|_| TicketError)?),
            secret: secret.try_into().map_err(|_| TicketError)?,
        })
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({:?}, …)", self.stream)
    }
}

impl StreamNumber {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Every ticket that this server has given out and that still counts. `T` is what a control stream is to lanes.
#[derive(Debug)]
pub struct Book<T> {
    mark: [u8; MARK],
    pages: Mutex<Pages<T>>,
}

#[derive(Debug)]
struct Pages<T> {
    live: HashMap<StreamNumber, Entry<T>>,
    ended: VecDeque<StreamNumber>,
    addresses: HashMap<IpAddr, Failures>,
}

#[derive(Debug)]
struct Entry<T> {
    secret: [u8; 32],
    identity: Option<Identity>,
    failures: Failures,
    stream: Arc<T>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    since: Instant,
    count: u32,
}

impl Failures {
    fn none(now: Instant) -> Failures {
        Failures { since: now, count: 0 }
    }

    fn add(&mut self, now: Instant) {
        self.expire(now);
        self.count += 1;
    }

    fn expire(&mut self, now: Instant) {
        if now.duration_since(self.since) > FAILURE_WINDOW {
            *self = Failures::none(now);
        }
    }

    fn reached(&mut self, bound: u32, now: Instant) -> bool {
        self.expire(now);
        self.count >= bound
    }
}

impl<T> Book<T> {
    /// # Errors
    /// The kernel has no random bytes.
    pub fn new() -> Result<Book<T>, getrandom::Error> {
        let pages = Pages { live: HashMap::new(), ended: VecDeque::new(), addresses: HashMap::new() };
        Ok(Book { mark: random()?, pages: Mutex::new(pages) })
    }

    fn pages(&self) -> MutexGuard<'_, Pages<T>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A ticket for a new control stream. `identity`: the client certificate it came under, in mTLS mode.
    ///
    /// # Errors
    /// The kernel has no random bytes.
    pub fn issue(&self, identity: Option<Identity>, stream: Arc<T>) -> Result<Ticket, getrandom::Error> {
        let mut number: [u8; 16] = random()?;
        number[..MARK].copy_from_slice(&self.mark);
        let ticket = Ticket { stream: StreamNumber(number), secret: random()? };
        let failures = Failures::none(Instant::now());
        self.pages().live.insert(ticket.stream, Entry { secret: ticket.secret, identity, failures, stream });
        Ok(ticket)
    }

    /// The control stream is over: its ticket opens nothing any more.
    pub fn end(&self, stream: StreamNumber) {
        let mut pages = self.pages();
        if pages.live.remove(&stream).is_some() {
            if pages.ended.len() == ENDED_REMEMBERED {
                pages.ended.pop_front();
            }
            pages.ended.push_back(stream);
        }
    }

    /// The live control streams.
    pub fn streams(&self) -> Vec<Arc<T>> {
        self.pages().live.values().map(|entry| entry.stream.clone()).collect()
    }

    /// Whether lanes from this address are heard at all.
    pub fn admits(&self, from: IpAddr, now: Instant) -> bool {
        let mut pages = self.pages();
        !pages.addresses.get_mut(&from).is_some_and(|failures| failures.reached(FAILURES_PER_ADDRESS, now))
    }

    /// A lane from this address said what is no hello.
    pub fn failed(&self, from: IpAddr, now: Instant) {
        self.pages().failed(from, now);
    }

    /// The control stream whose ticket this is.
    ///
    /// # Errors
    /// The ticket does not count, or not for this certificate, or too many failed before it.
    pub fn check(
        &self,
        number: &[u8],
        secret: &[u8],
        identity: Option<&Identity>,
        from: IpAddr,
        now: Instant,
    ) -> Result<Arc<T>, Refusal> {
        let mut pages = self.pages();
        let checked = pages.check(self.mark, number, secret, identity, now);
        if checked.as_ref().is_err_and(|refusal| refusal.is_failure()) {
            pages.failed(from, now);
        }
        checked
    }
}

impl<T> Pages<T> {
    fn check(
        &mut self,
        mark: [u8; MARK],
        number: &[u8],
        secret: &[u8],
        identity: Option<&Identity>,
        now: Instant,
    ) -> Result<Arc<T>, Refusal> {
        let number = StreamNumber(number.try_into().map_err(|_| Refusal::UnknownStream)?);
        if number.0[..MARK] != mark {
            return Err(Refusal::OtherServer);
        }
        let Some(entry) = self.live.get_mut(&number) else {
            return Err(if self.ended.contains(&number) {
                Refusal::EndedStream
            } else {
                Refusal::UnknownStream
            });
        };
        if entry.failures.reached(FAILURES_PER_STREAM, now) {
            return Err(Refusal::TooManyFailures);
        }
        let refusal = if !bool::from(entry.secret.as_slice().ct_eq(secret)) {
            Refusal::WrongSecret
        } else if entry.identity.as_ref() != identity {
            Refusal::OtherCertificate
        } else {
            return Ok(entry.stream.clone());
        };
        entry.failures.add(now);
        Err(refusal)
    }

    fn failed(&mut self, from: IpAddr, now: Instant) {
        if self.addresses.len() >= ADDRESSES_REMEMBERED {
            self.addresses.retain(|_, failures| now.duration_since(failures.since) <= FAILURE_WINDOW);
        }
        if self.addresses.len() < ADDRESSES_REMEMBERED || self.addresses.contains_key(&from) {
            self.addresses.entry(from).or_insert_with(|| Failures::none(now)).add(now);
        }
    }
}

fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
#[path = "ticket_tests.rs"]
mod tests;
