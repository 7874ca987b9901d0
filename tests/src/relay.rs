//! A hop that is nothing but the splice engine: accepts TCP, connects on, joins. Two of them show what an engine
//! alone gives beside HAProxy. For tests only; the product never joins what nobody authorised.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use proxy_user::flow::{Direction, Engine, Meter};
use proxy_user::net::sockopt::tune;
use proxy_user::splice::{End, EngineChoice, SpliceConfig, Splicer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::child::Child;
use crate::link::{self, Link};
use crate::ports;

/// Where one relay listens, leads and reports.
#[derive(Debug, Clone)]
pub struct Hop {
    pub listen: SocketAddr,
    pub to: SocketAddr,
    /// Serves the meters as a Prometheus page.
    pub pages: SocketAddr,
    pub engine: EngineChoice,
    /// Bytes that all flows may hold back.
    pub buffer_budget: Option<u64>,
}

/// Two relay processes in a row.
pub struct Relay {
    pub front: SocketAddr,
    pub pages: [SocketAddr; 2],
    hops: [Child; 2],
}

impl Relay {
    /// `program` is a binary whose `relay` subcommand calls [`serve`]. With a link the second hop is on its far
    /// side, and the caller on the near one.
    pub fn start(
        program: &Path,
        directory: &Path,
        engine: &str,
        target: SocketAddr,
        link: Option<&Link>,
    ) -> anyhow::Result<Relay> {
        let loopback = Ipv4Addr::LOCALHOST;
        let far = if link.is_some() { link::FAR } else { loopback };
        let ports = ports::free::<4>()?;
        let [first, page_1] = [ports[0], ports[1]].map(|port| SocketAddr::from((loopback, port)));
        let [second, page_2] = [ports[2], ports[3]].map(|port| SocketAddr::from((far, port)));
        let hop = |name, listen: SocketAddr, to: SocketAddr, pages: SocketAddr| {
            let mut command = Command::new(program);
            command.args(["relay", "--engine", engine]);
            command.args(["--listen", &listen.to_string(), "--to", &to.to_string()]);
            Child::start(name, directory, command.args(["--pages", &pages.to_string()]))
        };
        let near_hop = hop("hop-1", first, second, page_1)?;
        let far_hop = link::on_far_side(link, || hop("hop-2", second, target, page_2))?;
        let mut hops = [near_hop, far_hop];
        for (child, address) in hops.iter_mut().zip([page_1, page_2]) {
            if let Err(error) = ports::wait_tcp(address, Duration::from_secs(60)) {
                child.check()?;
                return Err(error.into());
            }
        }
        Ok(Relay { front: first, pages: [page_1, page_2], hops })
    }

    pub fn pids(&self) -> Vec<u32> {
        self.hops.iter().map(Child::pid).collect()
    }
}

/// Bytes of all flows: of finished ones as sums, of live ones in their meters.
#[derive(Default)]
struct Ledger {
    finished: Meter,
    live: Vec<Arc<Meter>>,
}

impl Ledger {
    fn finish(&mut self, meter: &Arc<Meter>) {
        for direction in [Direction::Up, Direction::Down] {
            for engine in Engine::ALL {
                self.finished.add(direction, engine, meter.by(direction, engine));
            }
        }
        self.live.retain(|other| !Arc::ptr_eq(other, meter));
    }

    fn page(&self) -> String {
        let mut page = String::new();
        for (direction, name) in [(Direction::Up, "up"), (Direction::Down, "down")] {
            for engine in Engine::ALL {
                let live: u64 = self.live.iter().map(|meter| meter.by(direction, engine)).sum();
                let all = live + self.finished.by(direction, engine);
                let engine = engine.name();
                page += &format!(
                    "konduit_bytes_total{{path=\"join\",engine=\"{engine}\",direction=\"{name}\"}} {all}\n"
                );
            }
        }
        page + &format!("konduit_flows{{path=\"join\"}} {}\n", self.live.len())
    }
}

/// Serves one hop until the process ends.
pub fn serve(hop: Hop) -> anyhow::Result<()> {
    let config =
        SpliceConfig { engine: hop.engine, buffer_budget: hop.buffer_budget, ..SpliceConfig::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let splicer = Splicer::start(config).context("starting the splice engine")?;
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let listener = listen(hop.listen)?;
        let pages = TcpListener::bind(hop.pages).await?;
        tokio::spawn(serve_pages(pages, splicer.clone(), ledger.clone()));
        loop {
            let (client, _) = listener.accept().await?;
            let (splicer, ledger, to) = (splicer.clone(), ledger.clone(), hop.to);
            tokio::spawn(async move {
                if let Err(error) = one_flow(client, to, &splicer, &ledger).await {
                    eprintln!("relay: {error:#}");
                }
            });
        }
    })
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    rustix::net::listen(&listener, 4096)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn one_flow(
    client: TcpStream,
    to: SocketAddr,
    splicer: &Splicer,
    ledger: &Mutex<Ledger>,
) -> anyhow::Result<()> {
    let target = TcpStream::connect(to).await.with_context(|| format!("connecting on to {to}"))?;
    // As the product's: a reset that a bad link loses is noticed by the next probe, and by nothing else.
    tune(&client)?;
    tune(&target)?;
    let meter = Arc::new(Meter::default());
    ledger.lock().expect("no panic while it is held").live.push(meter.clone());
    let join = splicer.join(End::tcp(client.into_std()?), End::tcp(target.into_std()?), meter.clone());
    let ending = join.await;
    ledger.lock().expect("no panic while it is held").finish(&meter);
    if !ending.is_clean() {
        say_ending(&ending);
    }
    Ok(())
}

fn say_ending(ending: &proxy_user::flow::Ending) {
    eprintln!("relay: up {:?} {}, down {:?} {}", ending.up, ending.up_bytes, ending.down, ending.down_bytes);
}

/// What the engine holds and what happened in it, under the product's names.
fn held(splicer: &Splicer) -> String {
    let now = splicer.snapshot();
    let held =
        [("flows", now.flows), ("mapped", now.mapped), ("forgotten", now.forgotten), ("pipes", now.pipes)];
    let held = held.map(|(what, count)| format!("konduit_engine{{what=\"{what}\"}} {count}\n")).concat();
    let events = [("promoted", now.promotions), ("demoted", now.demotions)];
    let events =
        events.map(|(event, count)| format!("konduit_engine_events_total{{event=\"{event}\"}} {count}\n"));
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let bytes = [("trimmed", now.trimmed), ("passed", now.passed)]
        .map(|(what, bytes)| format!("konduit_engine_bytes_total{{what=\"{what}\"}} {bytes}\n"));
    let (events, bytes) = (events.concat(), bytes.concat());
    format!("{held}{events}{bytes}konduit_tasks {tasks}\n")
}

async fn serve_pages(listener: TcpListener, splicer: Splicer, ledger: Arc<Mutex<Ledger>>) {
    while let Ok((mut socket, _)) = listener.accept().await {
        let page = ledger.lock().expect("no panic while it is held").page() + &held(&splicer);
        tokio::spawn(async move {
            // One request, one answer; a client that went away loses only its own page.
            let _ = socket.read(&mut [0; 1024]).await;
            let _ = socket.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{page}").as_bytes()).await;
        });
    }
}
