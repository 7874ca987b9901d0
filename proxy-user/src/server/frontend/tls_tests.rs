use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::lane::testing::{shake, tcp_pair};

async fn pair(old: bool) -> (TlsEnd, TlsEnd) {
    let versions = if old { &[&TLS12] } else { &[&TLS13] };
    let (near, far) = tcp_pair().await;
    let (client, server) = shake(versions, near, far).await;
    (TlsEnd::new(client), TlsEnd::new(server))
}

#[tokio::test]
async fn either_side_ends_its_direction_and_goes_on_reading() {
    for old in [false, true] {
        for server_first in [false, true] {
            let (client, server) = pair(old).await;
            let (mut first, mut second) = if server_first { (server, client) } else { (client, server) };
            first.write_all(b"a question").await.unwrap();
            first.shutdown().await.unwrap();
            let mut heard = Vec::new();
            second.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, b"a question");

            let answer: Vec<u8> = (0..1_000_000u32).map(|n| (n * 7) as u8).collect();
            let expected = answer.clone();
            let send = async move {
                second.write_all(&answer).await.unwrap();
                second.shutdown().await.unwrap();
            };
            heard.clear();
            let (_, read) = tokio::join!(send, first.read_to_end(&mut heard));
            read.unwrap();
            assert!(heard == expected, "old: {old}, server first: {server_first}");
        }
    }
}

#[tokio::test]
async fn an_abort_and_a_drop_are_no_clean_end() {
    for drop_only in [false, true] {
        let (mut client, mut server) = pair(false).await;
        client.write_all(b"half of it").await.unwrap();
        server.read_exact(&mut [0; 10]).await.unwrap();
        if drop_only {
            drop(client)
        } else {
            client.abort()
        }
        let error = server.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_fin_without_close_notify_is_an_abort() {
    let (mut client, mut server) = pair(false).await;
    let socket = client.stream.as_ref().unwrap().get_ref().0;
    socket2::SockRef::from(socket).shutdown(std::net::Shutdown::Write).unwrap();
    let error = server.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    client.abort();
    assert_eq!(client.read(&mut [0; 1]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(client.write(&[0; 1]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn both_ends_said_goodbye_is_a_clean_end_for_both() {
    let (mut client, mut server) = pair(false).await;
    client.shutdown().await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    drop(client);
    assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
}
