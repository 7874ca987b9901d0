//! Both programs without a capability: bytes flow by the engines that need none, and each says what it lacks and why.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use proxy_tests::konduit::{Frontend, Konduit, Lanes, Settings, binaries};
use proxy_tests::ports;
use proxy_tests::scrape::Page;

use crate::ground::{SOON, echo, open, there_and_back};

/// Enough to be bulk.
const BYTES: usize = 32 << 20;

/// Programs of the same names that give every capability up, for good, before they run the real ones. Root without
/// capabilities still owns its files.
fn stripped(directory: &Path) -> PathBuf {
    let wrapped = directory.join("stripped");
    fs::create_dir(&wrapped).unwrap();
    let strip = match rustix::process::geteuid().is_root() {
        true => "setpriv --bounding-set=-all --inh-caps=-all --ambient-caps=-all --no-new-privs",
        false => "",
    };
    for name in ["proxy-server", "proxy-agent"] {
        let real = binaries().unwrap().join(name);
        let script = wrapped.join(name);
        fs::write(&script, format!("#!/bin/sh\nexec {strip} {} \"$@\"\n", real.display())).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    }
    wrapped
}

fn has_no_capability(pid: u32) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for set in ["CapPrm", "CapEff"] {
        let line = status.lines().find(|line| line.starts_with(set)).unwrap();
        assert!(line.ends_with("\t0000000000000000"), "setpriv left {line}");
    }
}

#[test]
fn bytes_flow_and_both_say_what_they_lack_and_why() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings {
        binaries: stripped(directory.path()),
        lanes: Lanes::Raw,
        frontend: Frontend::Connect,
        both: vec!["--lane-wait=30s".to_owned()],
        agent: Vec::new(),
    };
    let mut pair = Konduit::start(directory.path(), &settings, None).unwrap();
    pair.pids().into_iter().for_each(has_no_capability);

    let flow = open(&pair.socket, &echo().unwrap()).unwrap();
    there_and_back(&flow, BYTES);

    for (pages, program) in [(pair.server_pages, &pair.server), (pair.agent_pages, &pair.agent)] {
        let by_engine = || Page::get(pages).unwrap().by("konduit_bytes_total", "engine");
        // What was sent, there and back, and the bytes that proved the flow.
        let all = 2.0 * (BYTES + 14) as f64;
        ports::wait(SOON, "every byte to be counted", || by_engine().values().sum::<f64>() == all).unwrap();
        let engines = by_engine();
        assert!(engines["splice"] > 0.0 && engines["copy"] > 0.0, "{engines:?}");
        assert_eq!(engines.get("sockmap").copied().unwrap_or_default(), 0.0, "{engines:?}");
        let page = Page::get(pages).unwrap();
        assert_eq!(page.sum("konduit_flows", &[("path", "lane-raw")]), 1.0);
        for (engine, proven) in [("sockmap-tcp", 0.0), ("sockmap-unix", 0.0), ("splice", 1.0)] {
            let series: Vec<_> = page.ending("konduit_engine_proven").collect();
            assert_eq!(series.len(), 3, "{series:?}");
            assert_eq!(page.sum("konduit_engine_proven", &[("engine", engine)]), proven, "{engine}");
        }
        let log = fs::read_to_string(&program.log).unwrap();
        for words in
            ["proven on this machine: splice, copy; no sockmap-tcp: ", "; no sockmap-unix: ", "CAP_BPF"]
        {
            assert!(log.contains(words), "{words:?} is not in\n{log}");
        }
    }
    pair.check().unwrap();
}
