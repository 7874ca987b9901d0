//! CPU and heap profiles, as Go's own tool reads them.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use proxy_tests::ports;

use crate::ground::{Place, echo, open, there_and_back};

/// `go tool pprof -top` of a profile of a running server.
fn top(place: &Place, admin: u16, name: &str) -> String {
    let url = format!("http://127.0.0.1:{admin}/debug/pprof/{name}");
    let read = Command::new("go")
        .args(["tool", "pprof", "-top", "-symbolize=none", &url])
        .env("PPROF_TMPDIR", place.ground.path("pprof"))
        .output()
        .expect("Go 1.26 or newer is needed");
    assert!(read.status.success(), "{name}: {}", String::from_utf8_lossy(&read.stderr));
    String::from_utf8(read.stdout).unwrap()
}

/// Ends the traffic, also when there is no profile.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn gos_tool_reads_both_profiles() {
    let place = Place::new().unwrap();
    let [admin] = ports::free().unwrap();
    // Packets take time of the process's own; what the kernel splices does not.
    let flags = ["--enable-profiling", &format!("--admin-port={admin}"), "--lanes=off"];
    let _server = place.start_server("server", &flags).unwrap();
    let heap = top(&place, admin, "heap");
    assert!(heap.contains("Type: inuse_space") && heap.contains("[anonymous]"), "{heap}");
    assert!(heap.contains("proxy-server"), "{heap}");
    let _agent = place.start_agent().unwrap();
    let flow = open(&place.socket(), &echo().unwrap()).unwrap();
    let over = AtomicBool::new(false);
    let cpu = std::thread::scope(|scope| {
        let _over = AtEnd(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                there_and_back(&flow, 1 << 20);
            }
        });
        top(&place, admin, "profile?seconds=2")
    });
    assert!(cpu.contains("Type: cpu"), "{cpu}");
    let rows: Vec<_> = cpu.lines().skip_while(|line| !line.contains("flat%")).skip(1).collect();
    assert!(rows.iter().any(|row| row.contains("thread ")), "{cpu}");
}
