//! Certificates whose time has not come, or is over.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use proxy_tests::child::Child;
use proxy_tests::konduit::binaries;
use proxy_tests::ports;

use crate::ground::{Place, SOON};

/// The warnings of this certificate of the program's own.
fn warnings(child: &Child, path: &Path) -> Vec<String> {
    let log = fs::read_to_string(&child.log).unwrap();
    let of_it = |line: &&str| line.starts_with('W') && line.contains(&format!("the certificate {path:?} "));
    log.lines().filter(of_it).map(str::to_owned).collect()
}

#[test]
fn a_certificate_out_of_its_days_is_told_by_whoever_shows_it_and_whoever_sees_it() {
    let place = Place::new().unwrap();
    let [old, early] = [("old", 2019, 2020), ("early", 2095, 2096)]
        .map(|(name, from, to)| place.ground.certs.dated(name, from, to).unwrap());
    let [cert, key] = [("cert", &old.cert), ("key", &old.key)]
        .map(|(flag, path)| format!("--cluster-{flag}={}", path.display()));
    let server = place.start_server("server", &[&cert, &key]).unwrap();
    let [cert, key] = [("cert", &early.cert), ("key", &early.key)]
        .map(|(flag, path)| format!("--agent-{flag}={}", path.display()));
    let flags = ["--lanes=always", "--sync-interval=100ms", "--sync-interval-cap=100ms"];
    let agent = place.spawn_agent(&[&flags[..], &[&cert, &key]].concat()).unwrap();

    let told = |wanted: &str| {
        let log = fs::read_to_string(&agent.log).unwrap();
        log.lines().any(|line| line.contains("Cannot connect") && line.contains(wanted))
    };
    let wanted = "the peer's certificate expired at 2020-01-01T00:00:00Z; ";
    ports::wait(SOON, "a word of the server's certificate", || told(wanted)).unwrap();
    let [warning] = &warnings(&server, &old.cert)[..] else { panic!("{}", server.last_words()) };
    assert!(warning.contains("expired at 2020-01-01T00:00:00Z: "), "{warning}");
    // Control streams and lanes have it each.
    let [warning] = &warnings(&agent, &early.cert)[..] else { panic!("{}", agent.last_words()) };
    assert!(warning.contains("not valid before 2095-01-01T00:00:00Z: "), "{warning}");

    // Certificate and key do not change at one instant.
    fs::copy(&early.key, &old.key).unwrap();
    fs::copy(&early.cert, &old.cert).unwrap();
    let again = || warnings(&server, &old.cert).iter().any(|line| line.contains("not valid before 2095"));
    ports::wait(SOON, "a word of the new certificate", again).unwrap();
    let reloaded = || {
        let log = fs::read_to_string(&server.log).unwrap();
        log.lines().find(|line| line.contains("files changed, reloaded")).map(str::to_owned)
    };
    ports::wait(SOON, "a word of the new files", || reloaded().is_some()).unwrap();
    let named = reloaded().unwrap();
    assert!(named.contains(&format!("{:?}", old.cert)) && !named.contains("ca.crt"), "{named}");
    let wanted = "the peer's certificate is not valid before 2095-01-01T00:00:00Z; ";
    ports::wait(SOON, "a word of the server's certificate", || told(wanted)).unwrap();
}

#[test]
fn a_server_tells_why_it_refuses_an_agent_and_when_its_own_certificate_expires() {
    let place = Place::new().unwrap();
    // Before the days begin to count.
    binaries().unwrap();
    let own = place.ground.certs.until("own", SystemTime::now() + Duration::from_secs(20)).unwrap();
    let [cert, key] = [("cert", &own.cert), ("key", &own.key)]
        .map(|(flag, path)| format!("--cluster-{flag}={}", path.display()));
    let server = place.start_server("server", &[&cert, &key]).unwrap();
    assert_eq!(warnings(&server, &own.cert), [""; 0]);
    let early = place.ground.certs.dated("early", 2095, 2096).unwrap();
    let [cert, key] = [("cert", &early.cert), ("key", &early.key)]
        .map(|(flag, path)| format!("--agent-{flag}={}", path.display()));
    let _agent = place.spawn_agent(&[&cert, &key]).unwrap();
    let refused = || {
        let log = fs::read_to_string(&server.log).unwrap();
        let why = "the peer's certificate is not valid before 2095-01-01T00:00:00Z; ";
        log.lines().any(|line| {
            line.starts_with('W') && line.contains("No TLS handshake with an agent") && line.contains(why)
        })
    };
    ports::wait(SOON, "why the agent is refused", refused).unwrap();
    let expired = || warnings(&server, &own.cert).iter().any(|line| line.contains(" expired at "));
    ports::wait(SOON, "the end of the server's certificate", expired).unwrap();
}
