//! Both processes with few descriptors, and more clients than those can serve.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proxy_tests::calls::Client;
use proxy_tests::konduit::{Frontend, Konduit, Lanes, Settings, binaries};
use proxy_tests::scrape::Page;
use proxy_tests::targets::Target;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::cell::LONG;
use crate::{connect, control_stream, open};

/// The binaries, behind a shell that lowers the limit of these.
fn with_few_files(directory: &TempDir, poor: &[&str]) -> PathBuf {
    for name in ["proxy-server", "proxy-agent"] {
        let real = binaries().unwrap().join(name);
        let script = directory.path().join(name);
        let limit = if poor.contains(&name) { "ulimit -n 160\n" } else { "" };
        fs::write(&script, format!("#!/bin/sh\n{limit}exec {} \"$@\"\n", real.display())).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    }
    directory.path().to_owned()
}

async fn echoes(stream: &mut UnixStream) {
    stream.write_all(b"still here").await.unwrap();
    let mut back = [0; 10];
    tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(&back, b"still here");
}

/// A flow, as soon as there is room for it.
async fn in_time(socket: &Path, target: &Target, lanes: Lanes) -> UnixStream {
    let began = Instant::now();
    loop {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        match connect(&mut stream, &target.name()).await {
            head if head.starts_with("HTTP/1.1 200 ") => return stream,
            head => assert!(began.elapsed() < LONG, "{lanes:?}: not served: {head:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_new_dials_are_refused_and_old_flows_untouched() {
    for lanes in [Lanes::Raw, Lanes::Mux] {
        let directory = TempDir::new().unwrap();
        let settings = Settings {
            binaries: with_few_files(&directory, &["proxy-server", "proxy-agent"]),
            lanes,
            frontend: Frontend::Connect,
            both: Vec::new(),
            agent: Vec::new(),
        };
        let mut pair = Konduit::start(directory.path(), &settings, None).unwrap();
        let target = Target::echo().await.unwrap();
        let mut old = open(&pair.socket, &target).await;

        // More flows than there is room for.
        let (mut flows, mut refused) = (Vec::new(), 0);
        for _ in 0..120 {
            let mut stream = UnixStream::connect(&pair.socket).await.unwrap();
            let head = connect(&mut stream, &target.name()).await;
            if head.starts_with("HTTP/1.1 200 ") {
                flows.push(stream);
            } else {
                assert!(head.starts_with("HTTP/1.1 503 "), "{lanes:?}: {head:?}");
                refused += 1;
            }
        }
        assert!(flows.len() >= 15 && refused >= 60, "{lanes:?}: {} flows, {refused} refused", flows.len());
        echoes(&mut old).await;
        for flow in &mut flows {
            echoes(flow).await;
        }
        drop(flows);
        let live = || Page::get(pair.server_pages).map_or(f64::NAN, |page| page.sum("konduit_flows", &[]));
        let began = Instant::now();
        while live() != 1.0 {
            assert!(began.elapsed() < LONG, "{} flows are left", live());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        echoes(&mut open(&pair.socket, &target).await).await;

        // Clients that never say what they want keep nobody out who does.
        let mut silent = Vec::new();
        for _ in 0..120 {
            silent.push(UnixStream::connect(&pair.socket).await.unwrap());
        }
        let mut spoke = in_time(&pair.socket, &target, lanes).await;
        echoes(&mut spoke).await;
        echoes(&mut old).await;
        let given_up = [("port", "frontend"), ("reason", "room")];
        let given_up =
            Page::get(pair.server_pages).unwrap().sum("konduit_refused_connections_total", &given_up);
        assert!(given_up > 0.0, "{lanes:?}: connections that made room are counted");
        drop(spoke);
        drop(silent);
        echoes(&mut in_time(&pair.socket, &target, lanes).await).await;
        let noise = [&pair.server.log, &pair.agent.log].map(|log| fs::read_to_string(log).unwrap());
        let told = noise.iter().map(|log| log.matches("cannot accept").count()).sum::<usize>();
        assert!(told <= 4, "{told} lines tell of the same");
        assert!(no_room(&pair.server.log).contains("connections of API servers"), "{lanes:?}");
        pair.check().unwrap();
    }
}

/// The first line that tells of refusals for want of room, each of which tells what to do.
fn no_room(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap();
    let told: Vec<_> = text.lines().filter(|line| line.contains("No room for more")).collect();
    assert!((1..=4).contains(&told.len()), "{} lines tell of it:\n{text}", told.len());
    assert!(told.iter().all(|line| line.starts_with('W') && line.contains("LimitNOFILE")), "{told:?}");
    told[0].to_owned()
}

/// Over gRPC one connection has room for many flows: the flows themselves are counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_room_for_more_flows_says_so() {
    for poor in ["proxy-server", "proxy-agent"] {
        let directory = TempDir::new().unwrap();
        let settings = Settings {
            binaries: with_few_files(&directory, &[poor]),
            lanes: Lanes::Mux,
            frontend: Frontend::Grpc,
            both: Vec::new(),
            agent: Vec::new(),
        };
        let pair = Konduit::start(directory.path(), &settings, None).unwrap();
        let target = Target::echo().await.unwrap();
        let client = Client::new(UnixStream::connect(&pair.socket).await.unwrap()).await;
        let (mut flows, mut refused) = (Vec::new(), 0);
        for _ in 0..40 {
            match control_stream::dial(&client, &target.name()).await {
                (call, Ok(_)) => flows.push(call),
                (_, Err(_)) => refused += 1,
            }
        }
        assert!(flows.len() >= 15 && refused >= 10, "{poor}: {} flows, {refused} refused", flows.len());
        let log = if poor == "proxy-server" { &pair.server.log } else { &pair.agent.log };
        assert!(no_room(log).contains("No room for more flows"), "{poor}");
    }
}
