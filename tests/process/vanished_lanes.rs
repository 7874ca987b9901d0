//! A cable is cut under flows on lanes: each ends at both ends by TCP's own means, and dials work when it is mended.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use proxy_tests::child::Child;
use proxy_tests::link::{Link, NEAR, Nature};
use proxy_tests::netns;
use proxy_tests::ports::wait;
use socket2::{SockRef, TcpKeepalive};

use crate::ground::{Place, SOON, echo, open, ping};
use crate::vanished::{LATEST, clock, connections, dial, page};

/// What is sent and not acknowledged is given up after so many retransmissions: a quarter of an hour, and 6.2 s.
const RETRIES: &str = "/proc/sys/net/ipv4/tcp_retries2";
const PATIENT: &str = "15";
const HURRIED: &str = "4";
/// And a peer of whom nothing comes after 2 s and four probes, instead of 150 s.
const KEEPALIVE: [u32; 3] = [2, 1, 4];

/// Hurries the lanes of one end, which have upstream's times as every socket and no limit of their own for what is not
/// acknowledged: a reader may pause.
fn hurry(lanes_of: &Child, port: u16) -> usize {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    let mut lanes = 0;
    for socket in connections(lanes_of, port) {
        let socket = SockRef::from(&socket);
        if socket.tcp_user_timeout().unwrap().is_some() {
            continue; // a control stream
        }
        lanes += 1;
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), seconds(15));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), seconds(15));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 9);
        let [time, interval, retries] = KEEPALIVE;
        let hurried = TcpKeepalive::new().with_time(seconds(time)).with_interval(seconds(interval));
        socket.set_tcp_keepalive(&hurried.with_retries(retries)).unwrap();
    }
    lanes
}

/// How long after the cut nothing came any more.
fn ended(mut flow: UnixStream, cut: Instant) -> Duration {
    flow.set_read_timeout(Some(LATEST)).unwrap();
    let end = flow.read_to_end(&mut Vec::new());
    // A Unix socket knows no abort.
    assert!(!matches!(&end, Err(error) if error.kind() == ErrorKind::WouldBlock), "the flow never ends");
    cut.elapsed()
}

#[test]
fn flows_on_lanes_end_at_both_ends_of_a_cut_cable() {
    if netns::are_denied() {
        return;
    }
    let link = Link::new(&Nature::clean(Duration::ZERO, 1_000_000_000)).unwrap();
    let retries = |count: &str| {
        for end in [&link.near, &link.far] {
            end.run(|| Ok(fs::write(RETRIES, count)?)).unwrap();
        }
    };
    let place = Place::new().unwrap();
    place.ground.certs.server("server", &[&NEAR.to_string()]).unwrap();
    let host = format!("--proxy-server-host={NEAR}");
    let pace = ["--sync-interval=200ms", "--sync-interval-cap=500ms", "--drain-quiet=0s"];
    let mut server = link.near.run(|| place.start_server("server", &[])).unwrap();
    let mut agent = link.far.run(|| place.spawn_agent(&[&[host.as_str()][..], &pace].concat())).unwrap();
    let flows = |far| {
        let port = if far { place.agent_health } else { place.server_health };
        page(&link, port, far).unwrap().sum("konduit_flows", &[("path", "lane-raw")])
    };
    let ready = || page(&link, place.server_health, false).unwrap().sum("ready_backend_connections", &[]);
    wait(SOON, "the agent at the server", || ready() == 1.0).unwrap();

    // One whose agent sends, one whose server does, and one that is silent.
    let (ticking, target) = (link.far.run(clock).unwrap(), link.far.run(echo).unwrap());
    let mut heard = dial(&place, &ticking);
    heard.read_exact(&mut [0; 39 + 4]).unwrap();
    let mut told = open(&place.socket(), &target).unwrap();
    let silent = open(&place.socket(), &target).unwrap();
    assert_eq!((flows(false), flows(true)), (3.0, 3.0));
    let lanes = [&server, &agent].map(|end| hurry(end, place.agent_port));
    assert!(lanes.iter().all(|lanes| *lanes >= 3), "{lanes:?} lanes");

    retries(HURRIED);
    link.cut();
    let cut = Instant::now();
    told.write_all(b"into the void").unwrap();
    let ends = [heard, told, silent].map(|flow| std::thread::spawn(move || ended(flow, cut)));
    for (what, end) in ["heard", "told", "silent"].into_iter().zip(ends) {
        let took = end.join().unwrap();
        assert!(took < LATEST, "the flow that is {what} ended after {took:?}");
    }
    for far in [false, true] {
        wait(LATEST, "flows to end at this end", || flows(far) == 0.0).unwrap();
    }
    let targets = || page(&link, place.agent_health, true).unwrap().sum("open_endpoint_connections", &[]);
    wait(SOON, "targets to be left", || targets() == 0.0).unwrap();

    retries(PATIENT);
    link.mend();
    let mut again = Err(anyhow::anyhow!("never tried"));
    let works = || {
        again = open(&place.socket(), &target);
        again.is_ok()
    };
    wait(SOON, "a dial over the mended cable", works).unwrap();
    ping(&mut again.unwrap()).unwrap();
    server.check().unwrap();
    agent.check().unwrap();
}
