//! Round trips: on one flow (latency), and as whole short flows (dial + echo + close).

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Conn, Job, Way};

/// One round trip carries a keystroke's worth.
const MESSAGE: [u8; 64] = [0x2e; 64];
/// A round trip that takes longer counts as lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// Times in seconds, sorted.
#[derive(Debug, Clone, Default)]
pub struct Times(Vec<f64>);

impl Times {
    pub fn of(mut seconds: Vec<f64>) -> Times {
        seconds.sort_by(f64::total_cmp);
        Times(seconds)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The `q`-quantile in microseconds; NaN without samples.
    pub fn micros(&self, q: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get((q * last as f64).round() as usize).map_or(f64::NAN, |seconds| seconds * 1e6)
    }
}

/// An open flow that the target echoes.
pub struct Echo(Conn);

impl Echo {
    pub fn open(way: &Way) -> Result<Echo> {
        let conn = way.start(Job::Echo)?;
        conn.set_timeout(Some(PATIENCE))?;
        Ok(Echo(conn))
    }

    /// One round trip.
    pub fn trip(&mut self) -> Result<Duration> {
        let began = Instant::now();
        self.0.write_all(&MESSAGE)?;
        echoed(&mut self.0)?;
        Ok(began.elapsed())
    }

    /// Round trips one after the other: for `at_least` and until there are `enough`, but never longer than
    /// `longest`.
    pub fn trips(&mut self, enough: usize, at_least: Duration, longest: Duration) -> Result<Vec<f64>> {
        let began = Instant::now();
        let mut seconds = Vec::with_capacity(enough);
        while began.elapsed() < longest && (seconds.len() < enough || began.elapsed() < at_least) {
            seconds.push(self.trip()?.as_secs_f64());
        }
        Ok(seconds)
    }
}

/// What short flows gave.
#[derive(Debug, Clone)]
pub struct Churn {
    pub per_second: f64,
    /// From the begin of the dial to the first echo's last byte.
    pub first_echo: Times,
    pub errors: usize,
    /// The first error, in words.
    pub why: Option<String>,
}

/// `clients` threads dial, echo once and close, again and again for `time`.
pub fn churn(way: &Way, clients: usize, time: Duration) -> Result<Churn> {
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let mut all = Vec::new();
    let (mut errors, mut why) = (0, None);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(|| one_client(way, &stop))).collect();
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            let (seconds, failed, first) = thread.join().map_err(|_| Error::other("a client panicked"))?;
            all.extend(seconds);
            errors += failed;
            why = why.take().or(first);
        }
        Ok::<_, Error>(())
    })?;
    let per_second = all.len() as f64 / began.elapsed().as_secs_f64();
    Ok(Churn { per_second, first_echo: Times::of(all), errors, why })
}

fn one_client(way: &Way, stop: &AtomicBool) -> (Vec<f64>, usize, Option<String>) {
    let (mut seconds, mut errors, mut why) = (Vec::new(), 0, None);
    while !stop.load(Ordering::Relaxed) && errors < 100 {
        match short_flow(way) {
            Ok(took) => seconds.push(took.as_secs_f64()),
            Err(error) => {
                errors += 1;
                why.get_or_insert(error.to_string());
            }
        }
    }
    (seconds, errors, why)
}

/// Dial, one echo, close. What the flow is for and the message are one write, as a request is.
pub fn short_flow(way: &Way) -> Result<Duration> {
    let began = Instant::now();
    let mut conn = way.dial()?;
    conn.set_timeout(Some(PATIENCE))?;
    let mut request = [Job::Echo as u8; 1 + MESSAGE.len()];
    request[1..].copy_from_slice(&MESSAGE);
    conn.write_all(&request)?;
    echoed(&mut conn)?;
    Ok(began.elapsed())
}

/// Reads a message back.
fn echoed(conn: &mut Conn) -> Result<()> {
    let mut back = [0; MESSAGE.len()];
    conn.read_exact(&mut back)?;
    match back == MESSAGE {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::InvalidData, "an echo came back changed")),
    }
}
