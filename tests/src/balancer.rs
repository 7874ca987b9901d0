//! A TCP balancer in front of replicas on this machine, with the manners that balancers have. It looks into the
//! ClientHello as some do, to route by ALPN and to tell lanes from control streams.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proxy_user::lane::ALPN_LANE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    RoundRobin,
    /// One source, one replica.
    SourceHash,
    /// Knows `h2` and closes on every other ALPN name.
    OnlyH2,
    /// Knows this ALPN name, an operator's own, and closes on whoever does not offer it.
    Only(&'static str),
    /// Drops what was idle for so long, without a word to either side.
    Forgets(Duration),
}

/// Serves until dropped; its connections end with it.
pub struct Balancer {
    pub port: u16,
    shared: Arc<Shared>,
    _end: DropGuard,
}

struct Shared {
    manner: Manner,
    replicas: Mutex<Vec<u16>>,
    turn: AtomicU64,
    lanes: AtomicU64,
    /// Control streams, and lanes.
    forgotten: [AtomicU64; 2],
}

impl Balancer {
    /// In front of these ports of 127.0.0.1.
    pub async fn start(manner: Manner, replicas: &[u16]) -> std::io::Result<Balancer> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            manner,
            replicas: Mutex::new(replicas.to_vec()),
            turn: AtomicU64::new(0),
            lanes: AtomicU64::new(0),
            forgotten: Default::default(),
        });
        let end = CancellationToken::new();
        let accept = accept(listener, shared.clone(), end.clone());
        tokio::spawn(end.clone().run_until_cancelled_owned(accept));
        Ok(Balancer { port, shared, _end: end.drop_guard() })
    }

    pub fn add(&self, replica: u16) {
        self.shared.replicas().push(replica);
    }

    /// For new connections; those that are there go on.
    pub fn remove(&self, replica: u16) {
        self.shared.replicas().retain(|other| *other != replica);
    }

    /// How many lanes were tried.
    pub fn lanes(&self) -> u64 {
        self.shared.lanes.load(Ordering::Relaxed)
    }

    /// How many lanes were dropped without a word.
    pub fn forgotten_lanes(&self) -> u64 {
        self.shared.forgotten[1].load(Ordering::Relaxed)
    }

    /// How many control streams were.
    pub fn forgotten_streams(&self) -> u64 {
        self.shared.forgotten[0].load(Ordering::Relaxed)
    }
}

impl Shared {
    fn replicas(&self) -> MutexGuard<'_, Vec<u16>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pick(&self, from: SocketAddr) -> Option<u16> {
        let replicas = self.replicas();
        let turn = match (self.manner, from.ip()) {
            (Manner::SourceHash, IpAddr::V4(ip)) => u64::from(u32::from(ip)).wrapping_mul(0x9e37_79b9),
            _ => self.turn.fetch_add(1, Ordering::Relaxed),
        };
        replicas.get(turn as usize % replicas.len().max(1)).copied()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, end: CancellationToken) {
    while let Ok((client, from)) = listener.accept().await {
        let serve = serve(client, from, shared.clone());
        tokio::spawn(end.clone().run_until_cancelled_owned(serve));
    }
}

async fn serve(client: TcpStream, from: SocketAddr, shared: Arc<Shared>) {
    let Some(hello) = hello(&client).await else { return };
    let offers = |name: &[u8]| hello.windows(name.len()).any(|part| part == name);
    let lane = offers(ALPN_LANE);
    shared.lanes.fetch_add(u64::from(lane), Ordering::Relaxed);
    if matches!(shared.manner, Manner::Only(name) if !offers(name.as_bytes())) {
        return;
    }
    let Some(replica) = shared.pick(from) else { return };
    if lane && shared.manner == Manner::OnlyH2 {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", replica)).await else { return };
    // A connection that is gone says so when read.
    let _ = client.set_nodelay(true).and(server.set_nodelay(true));
    let forget = match shared.manner {
        Manner::Forgets(after) => Some(after),
        _ => None,
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let heard = Mutex::new(Instant::now());
    let mut both = std::pin::pin!(async {
        tokio::join!(carry(from_client, to_server, &heard), carry(from_server, to_client, &heard));
    });
    tokio::select! {
        () = &mut both => {}
        () = silence(&heard, forget) => {
            shared.forgotten[usize::from(lane)].fetch_add(1, Ordering::Relaxed);
            // Both sockets stay open and nothing is read any more.
            std::future::pending().await
        }
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, heard: &Mutex<Instant>) {
    let mut buffer = vec![0; 32 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        *heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    // The other side may be gone.
    let _ = to.shutdown().await;
}

/// Until nothing was heard for so long.
async fn silence(heard: &Mutex<Instant>, longest: Option<Duration>) {
    let Some(longest) = longest else { return std::future::pending().await };
    loop {
        let quiet = heard.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        if quiet >= longest {
            return;
        }
        tokio::time::sleep(longest - quiet).await;
    }
}

/// The ClientHello, without taking it; `None` without one.
async fn hello(client: &TcpStream) -> Option<Vec<u8>> {
    let mut hello = vec![0; 16 << 10];
    loop {
        let there = client.peek(&mut hello).await.ok().filter(|there| *there > 0)?;
        let length = hello.get(3..5).and_then(|two| <[u8; 2]>::try_from(two).ok()).map(u16::from_be_bytes)?;
        if there >= 5 && there >= 5 + usize::from(length) {
            hello.truncate(there);
            return Some(hello);
        }
        // A peek gives no event for the rest of a record.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
