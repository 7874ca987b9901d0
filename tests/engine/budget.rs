//! However many flows stall, what they hold back follows the budget; and each of them goes on when it is read.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use proxy_tests::memory::pipe_bytes;
use proxy_user::splice::{End, EndIo, EngineChoice, SpliceConfig, Watched};

use crate::bench::{Bench, Flow, Kind, Outer};
use crate::integrity::TURN;

const FLOWS: usize = 64;
const BUDGET: u64 = 8 << 20;

/// A flow that nobody reads, with a target that sends without end; so does the client where `both` do.
struct Stalled {
    flow: Flow,
    /// The engine's plain sockets.
    inner: Vec<TcpStream>,
    both: bool,
    /// By the client and by the target.
    sent: [u64; 2],
}

impl Stalled {
    fn open(bench: &Bench, client: Kind, both: bool) -> Stalled {
        let (client, target) = (bench.end(client), bench.end(Kind::Tcp));
        let inner = [&client.1, &target.1].into_iter().filter_map(twin).collect();
        let flow = bench.join(client, target);
        for outer in [&flow.client, &flow.target] {
            set_nonblocking(outer, true);
        }
        Stalled { flow, inner, both, sent: [0; 2] }
    }

    /// Sends until nothing more is taken; whether anything was.
    fn press(&mut self) -> bool {
        let before = self.sent;
        let Flow { client, target, .. } = &mut self.flow;
        let senders = if self.both { vec![client, target] } else { vec![target] };
        for (outer, sent) in senders.into_iter().rev().zip(self.sent.iter_mut().rev()) {
            while let Ok(bytes) = outer.write(&[0; 64 << 10]) {
                *sent += bytes as u64;
            }
        }
        self.sent != before
    }

    /// Reads all that was sent; how much came to the target and to the client.
    fn read(mut self) -> [u64; 2] {
        let Flow { client, target, .. } = &mut self.flow;
        let [up, down] = self.sent;
        [(target, up), (client, down)].map(|(outer, sent)| {
            set_nonblocking(outer, false);
            outer.take(sent).read_to_end(&mut Vec::new()).unwrap() as u64
        })
    }
}

#[test]
fn stalled_flows_share_the_budget() {
    let _turn = TURN.lock().unwrap_or_else(|poison| poison.into_inner());
    let bench = Bench::with(SpliceConfig { buffer_budget: Some(BUDGET), ..SpliceConfig::default() });
    let engines = [
        (EngineChoice::Auto, Kind::Tcp),
        (EngineChoice::Splice, Kind::Tcp),
        (EngineChoice::Copy, Kind::Tcp),
        (EngineChoice::Sockmap, Kind::Tcp),
        (EngineChoice::Auto, Kind::Stream),
    ];
    for ((engine, client), both) in engines.into_iter().flat_map(|way| [(way, false), (way, true)]) {
        bench.splicer.set_engine(engine);
        let mut flows: Vec<_> = (0..FLOWS).map(|_| Stalled::open(&bench, client, both)).collect();
        let mut quiet = 0;
        while quiet < 5 {
            let pressed = flows.iter_mut().filter_map(|flow| flow.press().then_some(())).count();
            quiet = if pressed == 0 { quiet + 1 } else { 0 };
            std::thread::sleep(Duration::from_millis(20));
        }
        let sockets: u64 = flows.iter().flat_map(|flow| &flow.inner).map(memory_of).sum();
        let held = sockets + pipe_bytes(std::process::id());
        let way = format!("{engine} {client:?}, {} ways", 1 + u8::from(both));
        println!("{way}: {held} bytes are held, {sockets} in sockets");
        // The kernel redirects whole segments, of 64 KiB on loopback.
        let most = BUDGET * if engine == EngineChoice::Sockmap { 9 } else { 6 } / 4;
        assert!(held < most, "{way}: {held} bytes are held, {sockets} in sockets");
        for flow in flows {
            let sent = flow.sent;
            assert_eq!(flow.read(), sent, "{way}");
        }
    }
}

fn set_nonblocking(outer: &Outer, nonblocking: bool) {
    if let Outer::Tcp(socket) = outer {
        socket.set_nonblocking(nonblocking).unwrap();
    }
}

/// The socket of a clear end, once more.
fn twin(end: &End) -> Option<TcpStream> {
    match &end.io {
        EndIo::Watched(Watched::Tcp(socket)) => Some(socket.as_fd().try_clone_to_owned().unwrap().into()),
        _ => None,
    }
}

/// What is received, taken in advance, queued to send and in the backlog, as `ss -m` counts it.
fn memory_of(socket: &TcpStream) -> u64 {
    const SO_MEMINFO: libc::c_int = 55;
    let mut info = [0u32; 9];
    let mut length = size_of_val(&info) as libc::socklen_t;
    let (fd, level) = (socket.as_raw_fd(), libc::SOL_SOCKET);
    #[allow(unsafe_code)]
    // SAFETY: the kernel writes at most `length` bytes to the array.
    let failed =
        unsafe { libc::getsockopt(fd, level, SO_MEMINFO, info.as_mut_ptr().cast(), &raw mut length) };
    assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
    let [received, _, _, _, advance, queued, _, backlog, _] = info.map(u64::from);
    received + advance + queued + backlog
}
