//! The target of every flow: accepts, reads the first byte, does that job.
//!
//! Echoes and held flows live in one epoll loop; bulk flows get a blocking thread each.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rustix::event::epoll::{self, Event, EventData, EventFlags};

use super::{Job, pacing};

/// One write or read of a bulk flow.
pub const CHUNK: usize = 256 << 10;
/// One write of a paced flow: small, so that it is no burst.
pub(super) const PACED_CHUNK: usize = 64 << 10;
const LISTENER: u64 = 0;
const STOP: u64 = 1;

/// A running target; it ends with this value, and its flows with it.
pub struct Target {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Bytes that `Up` flows brought.
    sunk: AtomicU64,
    /// Bytes that `Down` and `Paced` flows took.
    sent: AtomicU64,
    ended: AtomicBool,
    /// Clones of the sockets that threads block on, to shut them down at the end.
    blocked: Mutex<Vec<TcpStream>>,
}

impl Target {
    pub fn start() -> Result<Target> {
        Target::on("127.0.0.1:0".parse().expect("an address"))
    }

    pub fn on(address: SocketAddr) -> Result<Target> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        // The backlog of std is 128; the idle and churn scenarios dial faster than that.
        rustix::net::listen(&listener, 4096)?;
        let stop = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        let shared = Arc::new(Shared::default());
        let mut serving = Serving::new(listener, &stop, shared.clone())?;
        let thread = thread::Builder::new().name("target".into()).spawn(move || {
            if let Err(error) = serving.run() {
                eprintln!("target: {error}");
            }
        })?;
        Ok(Target { address, shared, stop, thread: Some(thread) })
    }

    /// Bytes that arrived on all `Up` flows so far.
    pub fn sunk(&self) -> u64 {
        self.shared.sunk.load(Ordering::Relaxed)
    }

    /// Bytes that the kernel took from all sending flows so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for socket in self.shared.blocked.lock().expect("no thread panics with it").drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// The epoll loop.
struct Serving {
    epoll: OwnedFd,
    listener: TcpListener,
    shared: Arc<Shared>,
    /// Flows of this loop by token; the job is known once the first byte came.
    flows: HashMap<u64, (TcpStream, Option<Job>)>,
    next: u64,
    buffer: Vec<u8>,
}

impl Serving {
    fn new(listener: TcpListener, stop: &OwnedFd, shared: Arc<Shared>) -> Result<Serving> {
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        epoll::add(&epoll, stop, EventData::new_u64(STOP), EventFlags::IN)?;
        Ok(Serving { epoll, listener, shared, flows: HashMap::new(), next: 2, buffer: vec![0; 16 << 10] })
    }

    fn run(&mut self) -> Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(256);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            for event in &events {
                match event.data.u64() {
                    STOP => return Ok(()),
                    LISTENER => self.accept()?,
                    token => self.serve(token),
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            epoll::add(&self.epoll, &socket, EventData::new_u64(self.next), EventFlags::IN)?;
            self.flows.insert(self.next, (socket, None));
            self.next += 1;
        }
    }

    fn serve(&mut self, token: u64) {
        let Some((socket, job)) = self.flows.get_mut(&token) else { return };
        let kept = match job {
            None => match read_job(socket) {
                Ok(Some(known @ (Job::Echo | Job::Hold))) => {
                    *job = Some(known);
                    known == Job::Echo || ignore(&self.epoll, socket).is_ok()
                }
                Ok(Some(bulk)) => {
                    let _ = epoll::delete(&self.epoll, socket.as_fd());
                    if let Some((socket, _)) = self.flows.remove(&token) {
                        hand_over(socket, bulk, &self.shared);
                    }
                    return;
                }
                Ok(None) => true,
                Err(_) => false,
            },
            Some(Job::Echo) => echo(socket, &mut self.buffer).unwrap_or(false),
            Some(_) => false,
        };
        if !kept {
            self.flows.remove(&token);
        }
    }
}

/// A held flow is watched for its end only.
fn ignore(epoll: &OwnedFd, socket: &TcpStream) -> Result<()> {
    let token = EventData::new_u64(u64::MAX);
    Ok(epoll::modify(epoll, socket, token, EventFlags::HUP)?)
}

fn read_job(socket: &mut TcpStream) -> Result<Option<Job>> {
    let mut byte = [0];
    match socket.read(&mut byte) {
        Ok(1) => match Job::from_byte(byte[0]) {
            Some(job) => Ok(Some(job)),
            None => Err(ErrorKind::InvalidData.into()),
        },
        Ok(_) => Err(ErrorKind::UnexpectedEof.into()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Echoes are small and answered before the next one is sent, so a full send buffer is a broken client.
fn echo(socket: &mut TcpStream, buffer: &mut [u8]) -> Result<bool> {
    match socket.read(buffer) {
        Ok(0) => Ok(false),
        Ok(n) => socket.write_all(&buffer[..n]).map(|()| true),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

fn hand_over(socket: TcpStream, job: Job, shared: &Arc<Shared>) {
    let shared = shared.clone();
    let spawned = thread::Builder::new().name("target-bulk".into()).stack_size(64 << 10).spawn(move || {
        let Ok(clone) = socket.try_clone() else { return };
        let inode = rustix::fs::fstat(&socket).map(|stat| stat.st_ino);
        shared.blocked.lock().expect("no thread panics with it").push(clone);
        let _ = run_bulk(&socket, job, &shared);
        // The clone goes first, else dropping the socket closes nothing.
        shared
            .blocked
            .lock()
            .expect("no thread panics with it")
            .retain(|other| rustix::fs::fstat(other).map(|stat| stat.st_ino) != inode);
    });
    if let Err(error) = spawned {
        eprintln!("target: no thread for a bulk flow: {error}");
    }
}

fn run_bulk(mut socket: &TcpStream, job: Job, shared: &Shared) -> Result<()> {
    socket.set_nonblocking(false)?;
    let mut limit = u64::MAX;
    if matches!(job, Job::Paced | Job::Exactly | Job::Turn) {
        let mut number = [0; 8];
        socket.read_exact(&mut number)?;
        match job {
            Job::Paced => pacing::pace(socket, u64::from_le_bytes(number))?,
            _ => limit = u64::from_le_bytes(number),
        }
    }
    if job == Job::Turn {
        let mut message = [0; 64];
        for _ in 0..10 {
            socket.read_exact(&mut message)?;
            socket.write_all(&message)?;
        }
    }
    let mut buffer = vec![0x5a; if job == Job::Paced { PACED_CHUNK } else { CHUNK }];
    while limit > 0 && !shared.ended.load(Ordering::Relaxed) {
        if job == Job::Up {
            match socket.read(&mut buffer)? {
                0 => break,
                n => shared.sunk.fetch_add(n as u64, Ordering::Relaxed),
            };
        } else {
            let most = buffer.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
            let sent = socket.write(&buffer[..most])? as u64;
            limit -= sent;
            shared.sent.fetch_add(sent, Ordering::Relaxed);
        }
    }
    socket.shutdown(Shutdown::Write)
}
