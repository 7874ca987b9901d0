//! Two outer sockets with a join of two inner ones between them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_user::flow::{Ending, Meter};
use proxy_user::net::sockopt;
use proxy_user::splice::{End, EngineChoice, SpliceConfig, Splicer, Watched};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::pattern;

const GREETING: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

/// What an inner socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    Unix,
    /// A TCP socket behind `FlowStream`: the copy on tokio.
    Stream,
    /// As `Stream`, with a peer whose close ends both directions.
    Closing,
}

/// The side that a test holds.
pub enum Outer {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Outer {
    pub fn finish(&self) {
        match self {
            Outer::Tcp(socket) => socket.shutdown(Shutdown::Write).unwrap(),
            Outer::Unix(socket) => socket.shutdown(Shutdown::Write).unwrap(),
        }
    }

    /// Waits until the other side's kernel has everything: a reset destroys what it has not.
    pub fn wait_acknowledged(&self) {
        match self {
            Outer::Tcp(socket) => wait("acknowledgement", || unacknowledged(socket) == 0),
            Outer::Unix(socket) => wait("reading", || unacknowledged(socket) == 0),
        }
    }

    /// Close with a reset (TCP) or a plain close (Unix).
    pub fn reset(self) {
        if let Outer::Tcp(socket) = &self {
            SockRef::from(socket).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }

    /// A reset (TCP) or a plain end (Unix) now, whoever else holds the socket.
    pub fn kill(&self) {
        match self {
            Outer::Tcp(socket) => {
                // Dissolves the connection with a reset, as `AF_UNSPEC` in connect(2) says.
                let unspec = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
                #[allow(unsafe_code)]
                // SAFETY: a valid address of the size given.
                unsafe {
                    libc::connect(socket.as_raw_fd(), &unspec, size_of::<libc::sockaddr>() as u32)
                };
            }
            Outer::Unix(socket) => drop(socket.shutdown(Shutdown::Both)),
        }
    }

    pub fn try_clone(&self) -> Outer {
        match self {
            Outer::Tcp(socket) => Outer::Tcp(socket.try_clone().unwrap()),
            Outer::Unix(socket) => Outer::Unix(socket.try_clone().unwrap()),
        }
    }

    pub fn set_timeout(&self, time: Duration) {
        match self {
            Outer::Tcp(socket) => {
                socket.set_read_timeout(Some(time)).unwrap();
                socket.set_write_timeout(Some(time)).unwrap();
            }
            Outer::Unix(socket) => {
                socket.set_read_timeout(Some(time)).unwrap();
                socket.set_write_timeout(Some(time)).unwrap();
            }
        }
    }

    /// Writes `bytes` bytes of the pattern from position 0.
    pub fn send_pattern(&mut self, seed: u64, bytes: u64) {
        let mut chunk = vec![0; 64 << 10];
        let mut at = 0;
        while at < bytes {
            let n = (bytes - at).min(chunk.len() as u64) as usize;
            pattern::fill(seed, at, &mut chunk[..n]);
            self.write_all(&chunk[..n]).unwrap_or_else(|error| panic!("write at {at} of {bytes}: {error}"));
            at += n as u64;
        }
    }

    /// Writes the pattern's bytes `from..to`, the last one as urgent data (MSG_OOB).
    pub fn send_urgent(&mut self, seed: u64, from: u64, to: u64) {
        let mut bytes = vec![0; (to - from) as usize];
        pattern::fill(seed, from, &mut bytes);
        let (last, before) = bytes.split_last().unwrap();
        self.write_all(before).unwrap();
        let sent = match self {
            Outer::Tcp(socket) => SockRef::from(&*socket).send_out_of_band(&[*last]),
            Outer::Unix(socket) => SockRef::from(&*socket).send_out_of_band(&[*last]),
        };
        assert_eq!(sent.unwrap(), 1);
    }

    /// Reads the pattern to its end; how many bytes, and how it ended.
    pub fn read_pattern(&mut self, seed: u64) -> (u64, std::io::Result<()>) {
        let mut chunk = vec![0; 256 << 10];
        let mut at = 0;
        loop {
            match self.read(&mut chunk) {
                Ok(0) => return (at, Ok(())),
                Ok(n) => {
                    pattern::check(seed, at, &chunk[..n]);
                    at += n as u64;
                }
                Err(error) => return (at, Err(error)),
            }
        }
    }
}

impl Read for Outer {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Outer::Tcp(socket) => socket.read(buffer),
            Outer::Unix(socket) => socket.read(buffer),
        }
    }
}

impl Write for Outer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Outer::Tcp(socket) => socket.write(bytes),
            Outer::Unix(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Whether this machine lets us load the programs; a test that needs them says so and passes otherwise.
pub fn mappable() -> bool {
    match proxy_user::splice::kernel::Sockmap::load(8) {
        Ok(_) => true,
        Err(error) => {
            // Not by eprintln, which a passing test keeps to itself.
            let _ = writeln!(std::io::stderr(), "\n!!! SKIPPED: {error}\n");
            false
        }
    }
}

/// Waits for `what`, 20 s at most.
pub fn wait(what: &str, mut reached: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !reached() {
        assert!(Instant::now() < until, "no {what} within 20 s");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Bytes that the socket's peer has not acknowledged.
pub fn unacknowledged(socket: &impl AsRawFd) -> u64 {
    let mut bytes: libc::c_int = 0;
    #[allow(unsafe_code)]
    // SAFETY: TIOCOUTQ writes one int.
    unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &mut bytes)
    };
    bytes as u64
}

/// How many descriptors this process has open.
pub fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A TCP socket that pretends not to be a plain one.
struct Opaque {
    socket: tokio::net::TcpStream,
    closing: bool,
}

impl proxy_user::splice::FlowStream for Opaque {
    fn abort(&mut self) {
        SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn poll_unwritable(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        if self.closing { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    }

    fn poll_broken(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        let broken = sockopt::hung_up(&self.socket).broken;
        if broken { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    }

    fn unacknowledged(&self) -> u64 {
        unacknowledged(&self.socket)
    }
}

impl AsyncRead for Opaque {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for Opaque {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

/// An engine with the runtime that awaits its joins.
pub struct Bench {
    pub splicer: Splicer,
    pub runtime: tokio::runtime::Runtime,
}

/// A join that runs.
pub struct Flow {
    pub client: Outer,
    pub target: Outer,
    pub meter: Arc<Meter>,
    pub cancel: proxy_user::splice::Canceller,
    pub ending: tokio::task::JoinHandle<Ending>,
}

impl Flow {
    /// So many bytes to the target and back.
    pub fn exchange(&mut self, bytes: usize) {
        exchange(&mut self.client, &mut self.target, bytes);
    }
}

/// So many bytes from one side to the other and back.
pub fn exchange(from: &mut (impl Read + Write), to: &mut (impl Read + Write), bytes: usize) {
    let mut message = vec![7; bytes];
    from.write_all(&message).unwrap();
    to.read_exact(&mut message).unwrap();
    to.write_all(&message).unwrap();
    from.read_exact(&mut message).unwrap();
    assert_eq!(message, vec![7; bytes]);
}

impl Bench {
    pub fn new(engine: EngineChoice) -> Bench {
        Bench::with(SpliceConfig { engine, ..SpliceConfig::default() })
    }

    pub fn with(config: SpliceConfig) -> Bench {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Bench { splicer: Splicer::start(config).unwrap(), runtime }
    }

    /// An outer socket and the inner end at its other side, which tokio watches as those of a dial.
    pub fn end(&self, kind: Kind) -> (Outer, End) {
        match kind {
            Kind::Unix => {
                let (outer, inner) = UnixStream::pair().unwrap();
                inner.set_nonblocking(true).unwrap();
                let outer = Outer::Unix(outer);
                outer.set_timeout(Duration::from_secs(30));
                let _context = self.runtime.enter();
                let inner = tokio::net::UnixStream::from_std(inner).unwrap();
                (outer, End::watched(Watched::Unix(inner)))
            }
            Kind::Tcp | Kind::Stream | Kind::Closing => {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                let outer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                outer.set_nodelay(true).unwrap();
                let (inner, _) = listener.accept().unwrap();
                inner.set_nonblocking(true).unwrap();
                sockopt::tune(&inner).unwrap();
                let outer = Outer::Tcp(outer);
                outer.set_timeout(Duration::from_secs(30));
                let _context = self.runtime.enter();
                let socket = tokio::net::TcpStream::from_std(inner).unwrap();
                if kind == Kind::Tcp {
                    return (outer, End::watched(Watched::Tcp(socket)));
                }
                (outer, End::stream(Opaque { socket, closing: kind == Kind::Closing }))
            }
        }
    }

    pub fn flow(&self, left: Kind, right: Kind) -> Flow {
        let (client, left) = self.end(left);
        let (target, right) = self.end(right);
        // A client on a Unix socket is silent until it was greeted, as after a CONNECT.
        if let Outer::Tcp(_) = client {
            return self.join((client, left), (target, right));
        }
        let left = left.with_greeting(bytes::Bytes::from_static(GREETING));
        let mut flow = self.join((client, left), (target, right));
        let mut greeting = [0; GREETING.len()];
        flow.client.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, GREETING);
        flow
    }

    pub fn join(&self, (client, left): (Outer, End), (target, right): (Outer, End)) -> Flow {
        let meter = Arc::new(Meter::default());
        let join = self.splicer.join(left, right, meter.clone());
        let cancel = join.canceller().unwrap();
        let ending = self.runtime.spawn(join);
        Flow { client, target, meter, cancel, ending }
    }

    /// Awaits the end of a flow, 20 s at most.
    pub fn ending(&self, ending: tokio::task::JoinHandle<Ending>) -> Ending {
        self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(20), ending).await.expect("the flow ends").unwrap()
        })
    }
}
