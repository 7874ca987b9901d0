//! Connections that say nothing, or nothing that counts, by the hundred at processes with few descriptors.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use proxy_tests::child::Child;
use proxy_tests::scrape::Page;
use proxy_tests::{ports, runner};
use proxy_user::lane::ALPN_LANE;
use proxy_user::net::tls::{ALPN_H2, ClientEndpoint, ClientTls};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::ground::{Place, SOON, echo, open, ping};

/// Descriptors of a process.
const FILES: usize = 256;
const SILENT: usize = 300;

const REFUSED: &str = "konduit_refused_connections_total";

/// The same program with few descriptors, which it cannot raise.
fn poor(command: &Command) -> Command {
    let mut poor = Command::new("sh");
    poor.args(["-c", &format!("ulimit -n {FILES} && exec \"$0\" \"$@\"")]);
    poor.arg(command.get_program()).args(command.get_args());
    poor
}

/// A server and its agent, both poor.
struct Pair {
    place: Place,
    server: Child,
    agent: Child,
    admins: [SocketAddr; 2],
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

impl Pair {
    fn start() -> Pair {
        let place = Place::new().unwrap();
        let admins: [u16; 2] = ports::free().unwrap();
        let logs = place.ground.path("");
        let server = place.server(&[&format!("--admin-port={}", admins[0])]).unwrap();
        let server = Child::start("server", &logs, &mut poor(&server)).unwrap();
        let agent = place.agent(&[&format!("--admin-server-port={}", admins[1])]).unwrap();
        let agent = Child::start("agent", &logs, &mut poor(&agent)).unwrap();
        let ready = || proxy_tests::scrape::http_get(place.pages(), "/readyz").is_ok();
        ports::wait(SOON, "an agent at the server", ready).unwrap();
        Pair { place, server, agent, admins: admins.map(local) }
    }

    /// Nobody was kept out: a flow goes, another is opened, and there is room for more.
    fn serves(&mut self, flow: &mut std::os::unix::net::UnixStream, target: &str) {
        ping(flow).unwrap();
        open(&self.place.socket(), target).unwrap();
        for pages in [self.place.pages(), local(self.place.agent_health)] {
            let open = Page::get(pages).unwrap().sum("process_open_fds", &[]);
            assert!(open < 0.8 * FILES as f64, "{open} of {FILES} descriptors are open");
        }
        self.server.check().and(self.agent.check()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_at_the_pages_keeps_nobody_out() {
    let mut pair = Pair::start();
    let target = echo().unwrap();
    let mut flow = open(&pair.place.socket(), &target).unwrap();
    let [server, agent] = [pair.place.pages(), local(pair.place.agent_health)];
    let [server_admin, agent_admin] = pair.admins;
    for (port, name, pages) in [
        (server, "health", server),
        (agent, "health", agent),
        (server_admin, "admin", server),
        (agent_admin, "admin", agent),
    ] {
        let mut silent = Vec::new();
        for _ in 0..SILENT {
            silent.push(TcpStream::connect(port).await.unwrap());
        }
        let gone = || {
            Page::get(pages)
                .is_ok_and(|page| page.sum(REFUSED, &[("port", name), ("reason", "room")]) > 200.0)
        };
        ports::wait(Duration::from_secs(10), &format!("room at {port} ({name})"), gone).unwrap();
        pair.serves(&mut flow, &target);
    }
}

fn tls(place: &Place, alpn: &[u8]) -> ClientEndpoint {
    let path = |name| place.ground.path(name);
    let identity = Some((path("client.crt"), path("client.key")));
    ClientTls { ca: path("ca.crt"), identity, alpn: vec![alpn.to_vec()] }.watch().unwrap()
}

/// A good certificate alone is no claim to a descriptor.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_behind_tls_on_the_agents_port_keeps_nobody_out() {
    let mut pair = Pair::start();
    let target = echo().unwrap();
    let mut flow = open(&pair.place.socket(), &target).unwrap();
    let (h2, lane) = (tls(&pair.place, ALPN_H2), tls(&pair.place, ALPN_LANE));
    let (mut silent, mut answering) = (Vec::new(), Vec::new());
    for number in 0..SILENT {
        let tls = if number % 3 == 0 { &lane } else { &h2 };
        let stream = TcpStream::connect(local(pair.place.agent_port)).await.unwrap();
        // Where there is no room any more the handshake never ends.
        let shaken = tokio::time::timeout(Duration::from_secs(5), tls.connect("127.0.0.1", stream, SOON));
        let Ok(Ok(mut stream)) = shaken.await else { break };
        if number % 3 == 1 {
            // Answers pings and settings, and calls nothing.
            let Ok((calls, connection)) = h2::client::handshake(stream).await else { break };
            answering.push((calls, tokio::spawn(connection)));
        } else {
            let _ = stream.flush().await;
            silent.push(stream);
        }
    }
    let pages = pair.place.pages();
    let room = [("port", "agents"), ("reason", "room")];
    runner::until("they make room for each other", || {
        Page::get(pages).is_ok_and(|page| page.sum(REFUSED, &room) > 200.0)
    })
    .await
    .unwrap();
    pair.serves(&mut flow, &target);
    // One more agent finds its way in.
    let [health] = ports::free().unwrap();
    let flags = [format!("--health-server-port={health}")];
    let _second = pair.place.spawn_agent(&flags.each_ref().map(String::as_str)).unwrap();
    let two = || {
        Page::get(pages)
            .is_ok_and(|page| page.sum("grpc_connections", &[("service_method", "Connect")]) == 2.0)
    };
    ports::wait(SOON, "two agents", two).unwrap();
    pair.serves(&mut flow, &target);
    drop((silent, answering));
}
