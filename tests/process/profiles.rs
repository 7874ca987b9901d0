//! CPU and heap profiles, as Go's own tool reads them.

use std::process::Command;

use proxy_tests::ports;

use crate::ground::Place;

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

#[test]
fn gos_tool_reads_both_profiles() {
    let place = Place::new().unwrap();
    let [admin] = ports::free().unwrap();
    let flags = ["--enable-profiling".to_owned(), format!("--admin-port={admin}")];
    let _server = place.start_server("server", &flags.each_ref().map(String::as_str)).unwrap();
    let heap = top(&place, admin, "heap");
    assert!(heap.contains("Type: inuse_space") && heap.contains("[anonymous]"), "{heap}");
    assert!(heap.contains("proxy-server"), "{heap}");
    let cpu = top(&place, admin, "profile?seconds=2");
    assert!(cpu.contains("Type: cpu"), "{cpu}");
}
