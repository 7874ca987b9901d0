//! Targets that do not answer as a dial hopes.

use proxy_tests::dark::Dark;
use proxy_tests::konduit::Lanes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};

use crate::cell::{Cell, LONG, Plan};
use crate::{Witness, connect, dials, rest};

async fn refused(cell: &Cell, target: &str) -> String {
    let mut stream = UnixStream::connect(cell.socket()).await.unwrap();
    let head = connect(&mut stream, target).await;
    head + &rest(&mut stream).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_dial_says_why_and_is_counted() {
    for lanes in [Lanes::Raw, Lanes::Encrypt, Lanes::Mux] {
        let cell = Cell::start(Plan { lanes, ..Plan::default() }).await.unwrap();
        let mut witness = Witness::new(&cell).await;
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let free = taken.local_addr().unwrap();
        drop(taken);
        for (target, says) in [
            (free.to_string(), format!("dial tcp {free}: connect: connection refused")),
            ("no-such-host.invalid:80".into(), "dial tcp: lookup no-such-host.invalid".into()),
            ("127.0.0.1".into(), "dial tcp: address 127.0.0.1: missing port in address".into()),
            ("127.0.0.1:99999".into(), "dial tcp: address 99999: invalid port".into()),
            // TCP has no way to a group (`tcp_v4_connect`), whatever routes there are.
            ("224.0.0.1:80".into(), "dial tcp 224.0.0.1:80: connect: network is unreachable".into()),
        ] {
            let answer = refused(&cell, &target).await;
            // A machine without any name server times out instead of learning that there is no such host.
            let unknown =
                target.contains("no-such-host") && answer.starts_with("HTTP/1.1 504 Gateway Timeout\r\n");
            assert!(
                unknown || answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"),
                "{lanes:?} {target}: {answer}"
            );
            assert!(answer.contains(&says), "{lanes:?} {target}: {answer}");
        }
        assert_eq!(
            cell.server_count("dial_failure_count", &[("reason", "error_response")]),
            5.0,
            "{lanes:?}"
        );
        assert_eq!(cell.agent_count("endpoint_dial_failure_total", &[]), 5.0, "{lanes:?}");
        witness.still_works().await;
        dials(&cell).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_never_answers_is_given_up_and_told() {
    let (cell, target) = (Cell::start(Plan::default()).await.unwrap(), Dark::new().unwrap());
    let mut witness = Witness::new(&cell).await;
    let answer = tokio::time::timeout(LONG, refused(&cell, &target.address.to_string())).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 504 Gateway Timeout\r\n"), "{answer}");
    assert!(answer.contains(&format!("dial tcp {}: i/o timeout", target.address)), "{answer}");
    assert_eq!(cell.agent_count("endpoint_dial_failure_total", &[("reason", "timeout")]), 1.0);
    witness.still_works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_speaks_first_is_heard_after_the_200() {
    for lanes in [Lanes::Raw, Lanes::Encrypt, Lanes::Mux] {
        let cell = Cell::start(Plan { lanes, ..Plan::default() }).await.unwrap();
        let mut witness = Witness::new(&cell).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // A dial that is given up meanwhile is no fault.
                let _ = stream.write_all(b"220 welcome\r\n").await;
            }
        });
        for _ in 0..20 {
            let mut stream = UnixStream::connect(cell.socket()).await.unwrap();
            let head = connect(&mut stream, &address.to_string()).await;
            assert_eq!(head, "HTTP/1.1 200 Connection Established\r\n\r\n");
            assert_eq!(rest(&mut stream).await, "220 welcome\r\n", "{lanes:?}");
        }
        witness.still_works().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_aborts_ends_its_own_flow() {
    for lanes in [Lanes::Raw, Lanes::Encrypt, Lanes::Mux] {
        let cell = Cell::start(Plan { lanes, ..Plan::default() }).await.unwrap();
        let mut witness = Witness::new(&cell).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = UnixStream::connect(cell.socket()).await.unwrap();
        connect(&mut stream, &listener.local_addr().unwrap().to_string()).await;
        let (mut target, _) = listener.accept().await.unwrap();
        target.write_all(b"half an answer").await.unwrap();
        socket2::SockRef::from(&target).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        let mut answer = [0; 14];
        tokio::time::timeout(LONG, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        drop(target);
        rest(&mut stream).await;
        cell.server_counts("established_connections", &[], 1.0).await;
        witness.still_works().await;
    }
}
