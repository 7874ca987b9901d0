//! Clients of the http-connect frontend that speak something else, or stop half way.

use std::time::Duration;

use proxy_tests::runner::{SOON, until};
use proxy_tests::targets::Target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::cell::{Cell, Plan};
use crate::{Witness, dials, rest};

const REFUSED: &str = "konduit_refused_connections_total";
const HEAD: [(&str, &str); 2] = [("port", "frontend"), ("reason", "head")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_connect_is_told_so() {
    let cell = Cell::start(Plan::default()).await.unwrap();
    let mut witness = Witness::new(&cell).await;
    let endless = format!("CONNECT a:1 HTTP/1.1\r\n{}", "X: y\r\n".repeat(20_000));
    let huge = format!("CONNECT a:1 HTTP/1.1\r\nX: {}", "y".repeat(2 << 20));
    for (before, (request, status)) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 405 Method Not Allowed\r\n"),
        ("\u{0}\u{1}\u{2}\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 "),
        (endless.as_str(), "HTTP/1.1 431 Request Header Fields Too Large\r\n"),
        (huge.as_str(), "HTTP/1.1 431 Request Header Fields Too Large\r\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = UnixStream::connect(cell.socket()).await.unwrap();
        let _ = stream.write_all(request.as_bytes()).await;
        let answer = rest(&mut stream).await;
        assert!(
            answer.starts_with(status),
            "{:?} was answered with {answer:?}",
            &request[..20.min(request.len())]
        );
        cell.server_counts(REFUSED, &HEAD, before as f64 + 1.0).await;
        witness.still_works().await;
    }
    dials(&cell).await;
}

/// As long as Go takes it, in pieces that end anywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_head_is_no_mistake() {
    let cell = Cell::start(Plan::default()).await.unwrap();
    let target = Target::echo().await.unwrap();
    let headers = format!("X-Long: {}\r\n", "y".repeat(900)).repeat(1000);
    let head = format!("CONNECT {} HTTP/1.1\r\n{headers}\r\nafter", target.name());
    let mut stream = UnixStream::connect(cell.socket()).await.unwrap();
    for piece in head.as_bytes().chunks(7001) {
        stream.write_all(piece).await.unwrap();
    }
    let mut answer = [0; 44];
    tokio::time::timeout(SOON, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 200 Connection Established\r\n\r\nafter");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_head_holds_up_nobody_and_ends_with_its_client() {
    let cell = Cell::start(Plan::default()).await.unwrap();
    let mut halves = Vec::new();
    for _ in 0..50 {
        let mut stream = UnixStream::connect(cell.socket()).await.unwrap();
        stream.write_all(b"CONNECT 127.0.0.1:1 HT").await.unwrap();
        halves.push(stream);
    }
    dials(&cell).await;
    until("fifty half heads", || cell.server_count("http_connections", &[]) >= 50.0).await.unwrap();
    drop(halves);
    cell.server_counts("http_connections", &[], 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_head_is_given_up_in_time() {
    let cell = Cell::with(Plan::default(), |options| options.head_timeout = Duration::from_millis(200))
        .await
        .unwrap();
    let mut witness = Witness::new(&cell).await;
    let mut stream = UnixStream::connect(cell.socket()).await.unwrap();
    stream.write_all(b"CONNECT 127.0.0.1:1 HT").await.unwrap();
    // As upstream, which ends it without a word.
    assert_eq!(rest(&mut stream).await, "");
    cell.server_counts(REFUSED, &HEAD, 1.0).await;
    cell.server_counts("http_connections", &[], 1.0).await;
    witness.still_works().await;
}
