//! Lanes alone, server and agent in one process over loopback: `cargo bench --no-default-features --bench lanes`.
//!
//! Dial + echo + close by eight clients, a dial on a warm lane beside a TCP connect, one stream in TLS.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_user::flow::DialError;
use proxy_user::lane;
use proxy_user::lane::open::{BoxFuture, Host, LaneFlow};
use proxy_user::lane::{
    ALPN_LANE, AgentLaneConfig, AgentLanes, AgentStream, Answered, Dialled, LaneRoute, Security,
    ServerLaneConfig, ServerLanes, StreamLanes,
};
use proxy_user::net::cipher::TlsPolicy;
use proxy_user::net::connect::Connector;
use proxy_user::net::listener::TcpListener;
use proxy_user::net::tls::{ClientTls, ServerTls};
use proxy_user::splice::{End, EndIo, Watched};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

const SOON: Duration = Duration::from_secs(10);
const CLIENTS: usize = 8;

trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

fn io(end: End) -> Box<dyn Bytes> {
    match end.io {
        EndIo::Watched(Watched::Tcp(socket)) => Box::new(socket),
        EndIo::Watched(Watched::Unix(_)) | EndIo::Plain(_) => unreachable!("a lane is a TCP socket"),
        EndIo::Stream(stream) => Box::new(stream),
    }
}

struct Echo;

impl Host for Echo {
    fn dial<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<End, DialError>> {
        Box::pin(async { Ok(target()) })
    }

    fn carry(&self, flow: LaneFlow) {
        drop(flow.target);
        tokio::spawn(echo(io(flow.lane)));
    }

    fn renew(&self) {}
}

/// Something to hand over; the bench's target is the agent itself.
fn target() -> End {
    let (near, _) = std::os::unix::net::UnixStream::pair().expect("a pair");
    End::unix(near)
}

/// Sends back what it gets; a first byte of 'd' asks for bytes without end instead.
async fn echo(mut lane: Box<dyn Bytes>) {
    let mut buffer = vec![b'd'; 256 << 10];
    let Ok(mut read) = lane.read(&mut buffer).await else { return };
    if read > 0 && buffer[0] == b'd' {
        while lane.write_all(&buffer).await.is_ok() {}
        return;
    }
    while read > 0 {
        if lane.write_all(&buffer[..read]).await.is_err() || lane.flush().await.is_err() {
            return;
        }
        read = lane.read(&mut buffer).await.unwrap_or(0);
    }
    let _ = lane.shutdown().await;
}

fn certificates(directory: &Path) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("CA");
    std::fs::write(directory.join("ca.crt"), ca.pem()).expect("write");
    for name in ["server", "agent"] {
        let key = KeyPair::generate().expect("key");
        let params = CertificateParams::new(vec![format!("{name}.test")]).expect("params");
        let certificate = params.signed_by(&key, &ca).expect("certificate");
        std::fs::write(directory.join(format!("{name}.crt")), certificate.pem()).expect("write");
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).expect("write");
    }
}

enum Packet {
    Want(u32),
    Dial(u64),
}

/// Server, agent and a channel in place of the control stream.
struct Pair {
    server: ServerLanes,
    agent: AgentLanes,
    stream: StreamLanes,
    control: mpsc::Sender<Packet>,
}

fn pair(directory: &Path, security: Security) -> Pair {
    let file = |name: &str| directory.join(name);
    let tls = ServerTls {
        cert: file("server.crt"),
        key: file("server.key"),
        client_ca: Some(file("ca.crt")),
        alpn: vec![ALPN_LANE.to_vec()],
        require_alpn: true,
        policy: TlsPolicy::default(),
    };
    let tls = tls.watch().expect("server TLS");
    let listener = TcpListener::bind("127.0.0.1", 0).expect("a port");
    let port = listener.local_addr().port();
    let server = ServerLanes::start(ServerLaneConfig::new("bench", security, 8192)).expect("lanes");
    let lanes = server.clone();
    tokio::spawn(async move {
        loop {
            let accepted = listener.accept().await;
            let (tls, lanes) = (tls.clone(), lanes.clone());
            tokio::spawn(async move {
                if let Ok(accepted) = lane::handshake(&tls, Some(&lanes), accepted, SOON).await {
                    lanes.accept(accepted).await;
                }
            });
        }
    });
    let client = ClientTls {
        ca: file("ca.crt"),
        identity: Some((file("agent.crt"), file("agent.key"))),
        alpn: vec![ALPN_LANE.to_vec()],
    };
    let connector = Connector::by("127.0.0.1", port, None).expect("no proxy");
    let route = LaneRoute::new(connector, "server.test", client.watch().expect("client TLS"));
    let mut config = AgentLaneConfig::new(security, 8192);
    config.wait = SOON;
    let agent = AgentLanes::new(config, Arc::new(route));
    let identity = {
        let pem = std::fs::read(file("agent.crt")).expect("certificate");
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).expect("PEM");
        let certificate = pem.parse_x509().expect("certificate");
        proxy_user::net::tls::Identity {
            subject: certificate.subject().as_raw().to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
        }
    };
    let (control, mut packets) = mpsc::channel(1024);
    let asking = control.clone();
    let ask = Box::new(move |lanes| drop(asking.try_send(Packet::Want(lanes))));
    let stream = server.stream(Some(identity), ask).expect("a ticket");
    let ticket = stream.ticket().to_text().parse().expect("a ticket");
    let opener: Arc<AgentStream> = Arc::new(agent.stream("bench", ticket, Arc::new(Echo)));
    tokio::spawn(async move {
        while let Some(packet) = packets.recv().await {
            match packet {
                Packet::Want(lanes) => opener.want(lanes),
                Packet::Dial(number) => {
                    let opener = opener.clone();
                    tokio::spawn(async move {
                        if let Answered::Lane(lane, _, _) =
                            opener.answer(number, async { Ok(target()) }).await
                        {
                            echo(io(lane)).await;
                        }
                    });
                }
            }
        }
    });
    Pair { server, agent, stream, control }
}

impl Pair {
    async fn dial(&self) -> Box<dyn Bytes> {
        let dialled = self.stream.dial("tcp", "target:1", |number| async move {
            self.control.send(Packet::Dial(number)).await.expect("the control stream");
            std::future::pending::<Result<(), DialError>>().await
        });
        match dialled.await.expect("a lane") {
            Dialled::Lane(end, _) => io(end),
            Dialled::Mux(..) => unreachable!("nothing answers on the mux"),
        }
    }
}

async fn once(mut lane: Box<dyn Bytes>) {
    let mut bytes = [b'e'; 64];
    lane.write_all(&bytes).await.expect("write");
    lane.flush().await.expect("flush");
    lane.read_exact(&mut bytes).await.expect("echo");
    lane.shutdown().await.expect("FIN");
    assert_eq!(lane.read(&mut bytes).await.expect("FIN"), 0);
}

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

async fn churn(name: &str, pair: &Arc<Pair>, clients: usize, length: Duration) {
    let (start, used, before) = (Instant::now(), cpu(), pair.server.stats());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let pair = pair.clone();
        tasks.spawn(async move {
            let mut dials = Vec::new();
            while start.elapsed() < length {
                let begin = Instant::now();
                let lane = pair.dial().await;
                dials.push(begin.elapsed());
                once(lane).await;
            }
            dials
        });
    }
    let mut dials: Vec<Duration> = Vec::new();
    while let Some(done) = tasks.join_next().await {
        dials.extend(done.expect("a client"));
    }
    dials.sort();
    let after = pair.server.stats();
    println!(
        "{name:<22} {:>7.0} flows/s  {:>6.1} us cpu/flow  dial p50 {:>6.0} us p99 {:>6.0} us  warm {} new {} resumed {} full {} idle {}",
        dials.len() as f64 / start.elapsed().as_secs_f64(),
        (cpu() - used).as_secs_f64() * 1e6 / dials.len() as f64,
        dials[dials.len() / 2].as_secs_f64() * 1e6,
        dials[dials.len() * 99 / 100].as_secs_f64() * 1e6,
        after.on_warm - before.on_warm,
        after.on_new - before.on_new,
        after.resumed - before.resumed,
        after.full - before.full,
        after.idle,
    );
}

/// A client that waits between two flows finds warm lanes only.
async fn sparse(name: &str, pair: &Arc<Pair>) {
    let mut dials = Vec::new();
    for _ in 0..400 {
        let begin = Instant::now();
        let lane = pair.dial().await;
        dials.push(begin.elapsed());
        once(lane).await;
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    dials.sort();
    println!(
        "{name:<22} dial p50 {:.0} us p99 {:.0} us",
        dials[200].as_secs_f64() * 1e6,
        dials[396].as_secs_f64() * 1e6
    );
}

async fn plain() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("a port");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(echo(Box::new(socket)));
        }
    });
    let (start, used) = (Instant::now(), cpu());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        tasks.spawn(async move {
            let mut dials = Vec::new();
            while start.elapsed() < Duration::from_secs(2) {
                let begin = Instant::now();
                let socket = TcpStream::connect(address).await.expect("connect");
                dials.push(begin.elapsed());
                once(Box::new(socket)).await;
            }
            dials
        });
    }
    let mut dials: Vec<Duration> = Vec::new();
    while let Some(done) = tasks.join_next().await {
        dials.extend(done.expect("a client"));
    }
    dials.sort();
    println!(
        "{:<22} {:>7.0} flows/s  {:>6.1} us cpu/flow  dial p50 {:>6.0} us",
        "TCP",
        dials.len() as f64 / start.elapsed().as_secs_f64(),
        (cpu() - used).as_secs_f64() * 1e6 / dials.len() as f64,
        dials[dials.len() / 2].as_secs_f64() * 1e6,
    );
}

async fn bulk(name: &str, pair: &Arc<Pair>) {
    let mut lane = pair.dial().await;
    lane.write_all(b"d").await.expect("write");
    lane.flush().await.expect("flush");
    let mut buffer = vec![0; 256 << 10];
    let (start, used) = (Instant::now(), cpu());
    let mut bytes = 0u64;
    while start.elapsed() < Duration::from_secs(3) {
        bytes += lane.read(&mut buffer).await.expect("bytes") as u64;
    }
    println!(
        "{name:<22} {:.2} Gbit/s, {:.2} cpu-s/GB (both ends)",
        bytes as f64 * 8e-9 / start.elapsed().as_secs_f64(),
        (cpu() - used).as_secs_f64() / (bytes as f64 * 1e-9)
    );
}

fn main() {
    let directory = tempfile::tempdir().expect("a directory");
    certificates(directory.path());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
    runtime.block_on(async {
        plain().await;
        for (name, security) in [("raw", Security::Raw), ("encrypt", Security::Encrypt)] {
            let pair = Arc::new(pair(directory.path(), security));
            for _ in 0..2 {
                churn(&format!("{name}, {CLIENTS} clients"), &pair, CLIENTS, Duration::from_secs(3)).await;
            }
            churn(&format!("{name}, 1 client"), &pair, 1, Duration::from_secs(2)).await;
            sparse(&format!("{name}, sparse"), &pair).await;
            bulk(&format!("{name}, one stream"), &pair).await;
            println!("{:?}\n{:?}", pair.server.stats(), pair.agent.stats());
        }
    });
}
