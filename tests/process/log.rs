//! Whoever reads the log may stall.

use std::io::Read;
use std::process::Stdio;

use proxy_tests::ports;
use proxy_tests::scrape::http_get;

use crate::ground::{Place, SOON, echo, open, ping};

/// What a pipe holds.
const PIPE: usize = 64 << 10;

#[test]
fn a_log_that_nobody_reads_stops_no_flow() {
    let place = Place::new().unwrap();
    let mut command = place.server(&["--v=5"]).unwrap();
    let mut server = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = server.stderr.take().unwrap();
    let outcome = flows_work(&place);
    server.kill().unwrap();
    server.wait().unwrap();
    let mut written = Vec::new();
    log.read_to_end(&mut written).unwrap();
    outcome.unwrap();
    assert!(written.len() >= PIPE - 4096, "the pipe was never full: {} bytes", written.len());
}

fn flows_work(place: &Place) -> anyhow::Result<()> {
    ports::wait(SOON, "the server", || http_get(place.pages(), "/healthz").is_ok())?;
    let _agent = place.start_agent()?;
    let target = echo()?;
    let mut flow = open(&place.socket(), &target)?;
    // Each leaves a line or more.
    for _ in 0..1500 {
        open(&place.socket(), &target)?;
    }
    ping(&mut flow)?;
    anyhow::ensure!(http_get(place.pages(), "/healthz")? == "ok");
    Ok(())
}
