//! Either program dies without a word, with flows on raw lanes: whoever is left notices, cleans up, and goes on.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use proxy_tests::ports::wait;
use proxy_tests::scrape::Page;
use rustix::process::Signal;

use crate::ground::{Place, SOON, echo, open, ping};

/// What a peer is told within, on a machine that is busy.
const PROMPT: Duration = Duration::from_secs(5);

/// Three that are still inside TLS, and three or more that the engine has taken over: those and whichever a busy
/// machine opened so slowly that its first bytes may have come too late for TLS.
fn flows(place: &Place, target: &str) -> Vec<UnixStream> {
    let (mut inside, mut over) = (Vec::new(), Vec::new());
    while inside.len() < 3 || over.len() < 3 {
        assert!(over.len() < 12, "no flow is opened within 80 ms");
        let began = Instant::now();
        let flow = open(&place.socket(), target).unwrap();
        let prompt = began.elapsed() < Duration::from_millis(80);
        if prompt && inside.len() < 3 { inside.push(flow) } else { over.push(flow) }
    }
    std::thread::sleep(Duration::from_millis(200));
    for flow in &mut over {
        ping(flow).unwrap();
    }
    inside.append(&mut over);
    inside
}

fn active(page: &Page) -> f64 {
    page.sum("konduit_flows", &[])
}

#[test]
fn flows_of_a_killed_agent_end_at_once_and_the_next_agent_serves() {
    let place = Place::new().unwrap();
    let mut server = place.start_server("server", &[]).unwrap();
    let mut agent = place.start_agent().unwrap();
    let target = echo().unwrap();
    let flows = flows(&place, &target);
    let all = flows.len() as f64;
    wait(SOON, "all flows", || place.page().is_ok_and(|page| active(&page) == all)).unwrap();
    agent.signal(Signal::KILL).unwrap();
    agent.wait(SOON).unwrap();
    let killed = Instant::now();
    for mut flow in flows {
        // A Unix socket knows no abort: its end is all there is.
        assert_eq!(flow.read_to_end(&mut Vec::new()).unwrap(), 0);
    }
    assert!(killed.elapsed() < PROMPT, "told after {:?}", killed.elapsed());
    wait(SOON, "the flows to be gone", || place.page().is_ok_and(|page| active(&page) == 0.0)).unwrap();
    let mut refused = UnixStream::connect(place.socket()).unwrap();
    refused.write_all(format!("CONNECT {target} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    refused.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("No agent available"), "{answer}");
    let _next = place.start_agent().unwrap();
    open(&place.socket(), &target).unwrap();
    server.check().unwrap();
}

/// Says how each of its connections ended, after its first bytes: by an end, or else by an error.
fn witness() -> (String, Receiver<std::io::Result<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (ended, ends) = sync_channel(16);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let ended = ended.clone();
            std::thread::spawn(move || ended.send(until_its_end(stream)));
        }
    });
    (address, ends)
}

fn until_its_end(mut stream: TcpStream) -> std::io::Result<usize> {
    let mut bytes = [0; 100];
    loop {
        let read = stream.read(&mut bytes)?;
        if read == 0 {
            return Ok(0);
        }
        stream.write_all(&bytes[..read])?;
    }
}

#[test]
fn targets_of_a_killed_server_are_told_and_its_agent_finds_the_next() {
    let place = Place::new().unwrap();
    let mut server = place.start_server("server", &[]).unwrap();
    let mut agent = place.start_agent().unwrap();
    let (target, ends) = witness();
    let flows = flows(&place, &target);
    let pages = std::net::SocketAddr::from(([127, 0, 0, 1], place.agent_health));
    let agents = || Page::get(pages).map_or(-1.0, |page| active(&page));
    wait(SOON, "all flows", || agents() == flows.len() as f64).unwrap();
    server.signal(Signal::KILL).unwrap();
    server.wait(SOON).unwrap();
    let killed = Instant::now();
    let told = flows.iter().map(|_| ends.recv_timeout(SOON).expect("a target that is told nothing"));
    let told: Vec<_> = told.collect();
    // In clear the kernel's FIN for a dead process is a flow's end, as behind any TCP proxy.
    let aborted = told.iter().filter(|end| end.is_err()).count();
    assert!(aborted >= 3, "inside TLS no end is taken for clean that nobody said: {told:?}");
    assert!(killed.elapsed() < PROMPT, "told after {:?}", killed.elapsed());
    wait(SOON, "the flows to be gone", || agents() == 0.0).unwrap();
    drop(flows);
    let _next = place.start_server("next", &[]).unwrap();
    let ready = || proxy_tests::scrape::http_get(place.pages(), "/readyz").is_ok();
    wait(SOON, "the agent at the next server", ready).unwrap();
    open(&place.socket(), &target).unwrap();
    agent.check().unwrap();
}
