//! Both programs built without eBPF: bytes flow by the engines that are left, whatever is asked for, and each says why.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use proxy_tests::konduit::{Frontend, Konduit, Lanes, Settings};
use proxy_tests::ports;
use proxy_tests::scrape::Page;

use crate::ground::{SOON, echo, open, there_and_back};

/// Where `cargo xtask test lower` puts them.
fn without_ebpf() -> Option<PathBuf> {
    let directory = std::env::var_os("KONDUIT_WITHOUT_EBPF").map(PathBuf::from);
    if directory.is_none() {
        // Past libtest's capture: a skip must be seen.
        let _ = writeln!(
            std::io::stderr(),
            "\n!!! SKIPPED: KONDUIT_WITHOUT_EBPF names no programs; `cargo xtask test lower` builds and tests them\n"
        );
    }
    directory
}

const WHY: &str = "this binary was built without the ebpf feature";
/// Enough to be bulk.
const BYTES: usize = 8 << 20;

#[test]
fn bytes_flow_without_the_in_kernel_engine_and_both_say_why() {
    let Some(binaries) = without_ebpf() else { return };
    for program in ["proxy-server", "proxy-agent"] {
        let doctor = Command::new(binaries.join(program)).arg("doctor").output().unwrap();
        let report = String::from_utf8(doctor.stdout).unwrap();
        assert!(report.contains(&format!("sockmap-tcp   no: {WHY}")), "{report}");
        assert!(report.contains("built without the ebpf feature"), "{report}");
    }
    // Who insists is told so and gets the next engine.
    for engine in ["auto", "sockmap"] {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings {
            binaries: binaries.clone(),
            lanes: Lanes::Raw,
            frontend: Frontend::Connect,
            both: vec!["--lane-wait=30s".to_owned(), format!("--engine={engine}")],
            agent: Vec::new(),
        };
        let mut pair = Konduit::start(directory.path(), &settings, None).unwrap();
        let flow = open(&pair.socket, &echo().unwrap()).unwrap();
        there_and_back(&flow, BYTES);
        for (pages, program) in [(pair.server_pages, &pair.server), (pair.agent_pages, &pair.agent)] {
            let moved = || Page::get(pages).unwrap().by("konduit_bytes_total", "engine");
            let all = 2.0 * (BYTES + 14) as f64;
            ports::wait(SOON, "every byte to be counted", || moved().values().sum::<f64>() == all).unwrap();
            assert_eq!(moved().get("sockmap").copied().unwrap_or_default(), 0.0, "{:?}", moved());
            let page = Page::get(pages).unwrap();
            for (engine, proven) in [("sockmap-tcp", 0.0), ("sockmap-unix", 0.0), ("splice", 1.0)] {
                assert_eq!(page.sum("konduit_engine_proven", &[("engine", engine)]), proven, "{engine}");
            }
            let log = fs::read_to_string(&program.log).unwrap();
            assert!(log.contains(&format!("no sockmap-tcp: {WHY}")), "{log}");
            let insisted = log.contains(&format!("then splice, copy move the bytes; no sockmap: {WHY}"));
            assert!(insisted || engine == "auto", "{log}");
        }
        pair.check().unwrap();
    }
}
