//! Both binaries as an operator has them: flags, pages, metrics, operator socket, signals.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use proxy_tests::konduit::{Frontend, Konduit, Lanes, Settings, binaries};
use proxy_tests::ports;
use proxy_tests::scrape::{Page, http_get};
use rustix::process::Signal;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(60);

struct Ground {
    directory: TempDir,
    pair: Konduit,
}

fn start(agent: &[&str]) -> anyhow::Result<Ground> {
    let directory = TempDir::new()?;
    let settings = Settings {
        binaries: binaries()?,
        lanes: Lanes::Raw,
        frontend: Frontend::Connect,
        // A busy machine must not turn a slow handshake into a flow of packets.
        both: vec!["--enable-profiling".to_owned(), "--lane-wait=30s".to_owned()],
        agent: agent.iter().map(|flag| (*flag).to_owned()).collect(),
    };
    let pair = Konduit::start(directory.path(), &settings, None)?;
    Ok(Ground { directory, pair })
}

fn program(name: &str, args: &[&str]) -> anyhow::Result<Output> {
    Ok(Command::new(binaries()?.join(name)).args(args).env_remove("PROXY_AGENT_ID").output()?)
}

/// A target that gives one connection's bytes back.
fn echo() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = stream.try_clone()?;
                let mut writer = stream;
                std::io::copy(&mut reader, &mut writer)
            });
        }
    });
    Ok(address)
}

/// A flow to `target`, proven by one byte there and back.
fn open(socket: &Path, target: SocketAddr) -> anyhow::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())?;
    let mut head = [0; 39];
    stream.read_exact(&mut head)?;
    anyhow::ensure!(
        &head == b"HTTP/1.1 200 Connection Established\r\n\r\n",
        "{}",
        String::from_utf8_lossy(&head)
    );
    ping(&mut stream)?;
    Ok(stream)
}

fn ping(stream: &mut UnixStream) -> anyhow::Result<()> {
    stream.write_all(b"x")?;
    let mut answer = [0; 1];
    stream.read_exact(&mut answer)?;
    anyhow::ensure!(&answer == b"x");
    Ok(())
}

/// Status line, headers and body of a GET.
fn raw(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(SOON))?;
    socket.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn pages_and_metrics_are_upstreams() -> anyhow::Result<()> {
    let ground = start(&[])?;
    let (server, agent) = (ground.pair.server_pages, ground.pair.agent_pages);
    let target = echo()?;
    let mut flow = open(&ground.pair.socket, target)?;
    ping(&mut flow)?;

    assert_eq!(http_get(server, "/healthz")?, "ok");
    assert_eq!(http_get(server, "/readyz?verbose")?, "ok");
    let verbose = "[+]ping ok\n[+]server-connected ok\ncheck passed\n";
    assert_eq!(http_get(agent, "/readyz?verbose")?, verbose);
    assert!(raw(agent, "/nothing")?.ends_with("\r\n\r\n404 page not found\n"));

    let page = Page::get(server)?;
    let prefix = "konnectivity_network_proxy_server";
    for (name, least) in [
        ("established_connections", 1.0),
        ("ready_backends", 1.0),
        ("ready_backend_connections", 1.0),
        ("http_connections", 1.0),
        ("dial_duration_seconds_count", 1.0),
        ("stream_packets_total", 1.0),
    ] {
        assert!(page.sum(&format!("{prefix}_{name}"), &[]) >= least, "{name}");
    }
    assert_eq!(page.sum("konduit_flows", &[("path", "lane-raw")]), 1.0);
    assert_eq!(page.sum("konduit_bytes_total", &[("direction", "to_target")]), 2.0);
    assert!(page.sum("process_resident_memory_bytes", &[]) > 1e6);
    assert_eq!(page.ending("dial_failure_count").count(), 0);

    let page = Page::get(agent)?;
    assert_eq!(page.sum("agent_open_server_connections", &[]), 1.0);
    assert_eq!(page.sum("agent_open_endpoint_connections", &[]), 1.0);
    assert_eq!(page.sum("agent_known_server_count", &[]), 1.0);

    drop(flow);
    let both = [(server, "server_established_connections"), (agent, "agent_open_endpoint_connections")];
    for (address, gauge) in both {
        let zero = || Page::get(address).is_ok_and(|page| page.sum(gauge, &[]) == 0.0);
        ports::wait(SOON, gauge, zero)?;
    }
    Ok(())
}

#[test]
fn an_agents_admin_port_sends_scrapers_to_its_health_port_and_a_servers_answers() -> anyhow::Result<()> {
    let ground = start(&[])?;
    let (admin, health) = (ground.pair.agent_admin, ground.pair.agent_pages);
    for query in ["", "?x=1"] {
        let answer = raw(admin, &format!("/metrics{query}"))?;
        assert!(answer.starts_with("HTTP/1.1 301 Moved Permanently\r\n"), "{answer}");
        let locations: Vec<_> = answer
            .lines()
            .filter_map(|line| {
                line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("location"))
            })
            .collect();
        let [(_, location)] = locations[..] else { panic!("{answer}") };
        // As upstream: the host that was asked, no scheme.
        assert_eq!(location, format!("//127.0.0.1:{}/metrics{query}", health.port()));
    }
    assert!(Page::get(health)?.has("agent_open_server_connections", &[]));
    for address in [ground.pair.server_admin, ground.pair.server_pages] {
        assert!(Page::get(address)?.has("server_ready_backends", &[]), "{address}");
    }
    Ok(())
}

#[test]
fn the_operator_sees_flows_and_lowers_settings() -> anyhow::Result<()> {
    let ground = start(&[])?;
    let target = echo()?;
    let _flow = open(&ground.pair.socket, target)?;
    for (name, socket) in
        [("proxy-server", "server-operator.socket"), ("proxy-agent", "agent-operator.socket")]
    {
        let socket = format!("--operator-socket={}", ground.directory.path().join(socket).display());
        let flows = program(name, &["flows", &socket])?;
        let text = String::from_utf8(flows.stdout)?;
        assert!(
            flows.status.success() && text.contains(&target.to_string()) && text.contains("lane-raw"),
            "{text}"
        );
        let doctor = String::from_utf8(program(name, &["doctor", &socket])?.stdout)?;
        assert!(
            doctor.contains("In force for new flows: engine=auto (flag), lanes=always (flag)"),
            "{doctor}"
        );
        let set = program(name, &["set", "engine=copy", "lanes=off", &socket])?;
        assert_eq!(
            String::from_utf8(set.stdout)?,
            "In force: engine=copy (operator), lanes=off (operator)\n"
        );
        let wrong = program(name, &["set", "engine=warp", &socket])?;
        assert!(!wrong.status.success() && String::from_utf8(wrong.stderr)?.contains("warp"));
    }
    let _second = open(&ground.pair.socket, target)?;
    let page = Page::get(ground.pair.server_pages)?;
    assert_eq!(page.sum("konduit_flows", &[("path", "mux")]), 1.0);
    assert_eq!(page.sum("konduit_flows", &[("path", "lane-raw")]), 1.0);
    Ok(())
}

/// The server asks for lanes still: what the agent allows is the agent's word.
#[test]
fn lanes_that_the_agent_alone_switches_off_are_used_by_no_new_flow() -> anyhow::Result<()> {
    let ground = start(&[])?;
    let target = echo()?;
    let mut first = open(&ground.pair.socket, target)?;
    let agent = ground.pair.agent_pages;
    let idle = |least: f64| {
        let lanes = move |page: Page| page.sum("konduit_lanes", &[("state", "idle")]);
        move || {
            Page::get(agent)
                .is_ok_and(|page| if least > 0.0 { lanes(page) >= least } else { lanes(page) == 0.0 })
        }
    };
    ports::wait(SOON, "a warm lane", idle(1.0))?;
    let socket =
        format!("--operator-socket={}", ground.directory.path().join("agent-operator.socket").display());
    anyhow::ensure!(program("proxy-agent", &["set", "lanes=off", &socket])?.status.success());
    ports::wait(SOON, "warm lanes to close", idle(0.0))?;
    let _second = open(&ground.pair.socket, target)?;
    let page = Page::get(ground.pair.server_pages)?;
    assert_eq!(page.sum("konduit_flows", &[("path", "mux")]), 1.0);
    ping(&mut first)
}

/// One setting that is wrong leaves the other as it was.
#[test]
fn an_engine_that_is_set_moves_the_bytes_of_new_flows() -> anyhow::Result<()> {
    let mut copied = 0.0;
    for _ in 0..3 {
        copied = copied_where_splice_was_set()?;
        if copied == 0.0 {
            return Ok(());
        }
        // A forced engine waits a second for a lane to be clear, which a busy machine may miss.
    }
    anyhow::bail!("splice was set, copy moved {copied} bytes")
}

fn copied_where_splice_was_set() -> anyhow::Result<f64> {
    let ground = start(&[])?;
    let target = echo()?;
    let socket =
        format!("--operator-socket={}", ground.directory.path().join("agent-operator.socket").display());
    let mixed = program("proxy-agent", &["set", "lanes=off", "engine=warp", &socket])?;
    anyhow::ensure!(!mixed.status.success());
    anyhow::ensure!(program("proxy-agent", &["set", "engine=splice", &socket])?.status.success());
    let mut flow = open(&ground.pair.socket, target)?;
    let page = Page::get(ground.pair.agent_pages)?;
    assert_eq!(page.sum("konduit_flows", &[("path", "lane-raw")]), 1.0, "lanes are as they were");
    let by = |engine: &str| -> anyhow::Result<f64> {
        Ok(Page::get(ground.pair.agent_pages)?.sum("konduit_bytes_total", &[("engine", engine)]))
    };
    let before = (by("splice")?, by("copy")?);
    let sent = 1 << 20;
    let mut reader = flow.try_clone()?;
    let reading = std::thread::spawn(move || reader.read_exact(&mut vec![0; sent]));
    flow.write_all(&vec![7; sent])?;
    reading.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    let moved = || anyhow::Ok((by("splice")? - before.0, by("copy")? - before.1));
    let counted = || moved().is_ok_and(|(spliced, copied)| spliced + copied >= 2.0 * sent as f64);
    ports::wait(SOON, "the bytes to be counted", counted)?;
    Ok(moved()?.1)
}

#[test]
fn an_agent_leaves_at_the_drains_deadline_with_a_flow_open() -> anyhow::Result<()> {
    let mut ground = start(&["--drain-quiet=1h", "--drain-timeout=1s"])?;
    let mut flow = open(&ground.pair.socket, echo()?)?;
    let began = std::time::Instant::now();
    ground.pair.agent.signal(Signal::TERM)?;
    ping(&mut flow)?;
    assert_eq!(ground.pair.agent.wait(SOON)?.code(), Some(0));
    assert!(began.elapsed() >= Duration::from_secs(1), "left after {:?}", began.elapsed());
    Ok(())
}

#[test]
fn an_agent_drains_while_it_serves_and_leaves_when_it_is_quiet() -> anyhow::Result<()> {
    let mut ground = start(&["--drain-quiet=500ms"])?;
    let target = echo()?;
    let mut flow = open(&ground.pair.socket, target)?;
    ground.pair.agent.signal(Signal::TERM)?;
    let told = || ground.pair.server.last_words().contains("draining");
    ports::wait(SOON, "the server to hear of the drain", told)?;
    let mut second = open(&ground.pair.socket, target)?;
    ping(&mut flow)?;
    ping(&mut second)?;
    assert_eq!(http_get(ground.pair.agent_pages, "/readyz")?, "ok");
    ground.pair.agent.check()?;
    drop((flow, second));
    assert_eq!(ground.pair.agent.wait(SOON)?.code(), Some(0));
    let unready =
        || raw(ground.pair.server_pages, "/readyz").is_ok_and(|page| page.starts_with("HTTP/1.1 500 "));
    ports::wait(SOON, "the server to miss its agent", unready)?;
    let page = raw(ground.pair.server_pages, "/readyz")?;
    assert!(page.ends_with("\r\n\r\nno connection to any proxy agent"), "{page}");
    Ok(())
}

#[test]
fn a_second_signal_ends_an_agent_at_once() -> anyhow::Result<()> {
    let mut ground = start(&["--drain-quiet=1h"])?;
    ground.pair.agent.signal(Signal::TERM)?;
    let told = || ground.pair.agent.last_words().contains("Draining");
    ports::wait(SOON, "the drain", told)?;
    ground.pair.agent.signal(Signal::INT)?;
    assert_eq!(ground.pair.agent.wait(SOON)?.code(), Some(0));
    Ok(())
}

#[test]
fn a_server_ends_with_flows_open_and_takes_its_socket_along() -> anyhow::Result<()> {
    let mut ground = start(&[])?;
    let mut flow = open(&ground.pair.socket, echo()?)?;
    ground.pair.server.signal(Signal::TERM)?;
    assert_eq!(ground.pair.server.wait(SOON)?.code(), Some(0));
    assert!(!ground.pair.socket.exists());
    let mut rest = Vec::new();
    // The flow was cut: an end or an abort, but no waiting.
    let _ = flow.read_to_end(&mut rest);
    let unready =
        || raw(ground.pair.agent_pages, "/readyz").is_ok_and(|page| page.starts_with("HTTP/1.1 503 "));
    ports::wait(SOON, "the agent to miss its server", unready)?;
    let page = raw(ground.pair.agent_pages, "/readyz")?;
    assert!(
        page.ends_with("\r\n\r\n[+]ping ok\n[-]server-connected failed: no servers connected\n"),
        "{page}"
    );
    Ok(())
}

#[test]
fn the_version_says_what_the_program_was_made_of() -> anyhow::Result<()> {
    for name in ["proxy-server", "proxy-agent"] {
        let told = program(name, &["--version"])?;
        assert!(told.status.success());
        let text = String::from_utf8(told.stdout)?;
        let first = format!("{name} {} (Konduit)", env!("CARGO_PKG_VERSION"));
        let starts = [&*first, "commit: ", "ebpf object: ", "features: "];
        let rest: Vec<_> = text.lines().zip(starts).map(|(line, start)| line.strip_prefix(start)).collect();
        let [Some(""), Some(commit), Some(object), Some(features)] = rest[..] else { panic!("{text}") };
        let is_hash = |text: &str| text.len() >= 12 && text.chars().all(|letter| letter.is_ascii_hexdigit());
        assert!(commit == "unknown" || is_hash(commit), "{text}");
        assert!(object == "none" || is_hash(object.split(' ').next().unwrap_or_default()), "{text}");
        assert!(["ebpf", "none (lower engines only)"].contains(&features), "{text}");
    }
    Ok(())
}

#[test]
fn help_exits_with_0_and_mistakes_with_1_all_at_once() -> anyhow::Result<()> {
    for name in ["proxy-server", "proxy-agent"] {
        let help = program(name, &["--help"])?;
        assert!(help.status.success() && String::from_utf8(help.stdout)?.contains("--lane-security"));
        let wrong = program(name, &["--v=loud", "--lane-security=none", "--no-such-flag"])?;
        let text = String::from_utf8(wrong.stderr)?;
        assert_eq!(wrong.status.code(), Some(1));
        let told: BTreeSet<&str> = ["\"-v, --v\"", "(--lane-security)", "--no-such-flag"]
            .into_iter()
            .filter(|flag| text.contains(flag))
            .collect();
        assert_eq!(told.len(), 3, "{text}");
        let nobody = program(name, &["flows", "--operator-socket=/nowhere/socket"])?;
        assert_eq!(nobody.status.code(), Some(1));
        assert!(String::from_utf8(nobody.stderr)?.contains("/nowhere/socket"));
    }
    Ok(())
}
