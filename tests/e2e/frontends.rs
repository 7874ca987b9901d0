//! Every way an API server can ask: both protocols, each over a Unix socket and over TCP with client certificates.

use bytes::Bytes;
use proxy_tests::calls::{Call, Client};
use proxy_tests::certs::Pair;
use proxy_tests::dark::Dark;
use proxy_tests::load::grpc::GrpcConn;
use proxy_tests::runner::{Cell, Ground, SOON, connect, until};
use proxy_tests::targets::Target;
use proxy_user::flow::Path;
use proxy_user::net::tls::{ALPN_H2, ALPN_HTTP1, ClientTls};
use proxy_user::server::BoundFrontend;
use proxy_user::server::options::{Mode, Options};
use proxy_user::wire::ids::{ConnId, DialId};
use proxy_user::wire::packet::{Answer, DialRequest, DialResponse, Packet};
use rustls::ClientConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::dial::ended_by_its_client;
use crate::paths::on_every_path;

fn over_tls(options: &mut Options) {
    options.uds_name = String::new();
    options.server_bind_address = "127.0.0.1".into();
    options.server_cert = options.cluster_cert.clone();
    options.server_key = options.cluster_key.clone();
    options.server_ca_cert = options.cluster_ca_cert.clone();
}

async fn tls(cell: &Cell, alpn: &[u8]) -> anyhow::Result<TlsStream<TcpStream>> {
    let BoundFrontend::Tcp(address) = cell.server.bound.frontend else { anyhow::bail!("no TCP frontend") };
    let Pair { cert, key } = client(&cell.ground);
    let tls =
        ClientTls { ca: cell.ground.certs.ca(), identity: Some((cert, key)), alpn: vec![alpn.to_vec()] };
    Ok(tls.watch()?.connect("localhost", TcpStream::connect(address).await?, SOON).await?)
}

fn client(ground: &Ground) -> Pair {
    Pair { cert: ground.path("client.crt"), key: ground.path("client.key") }
}

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 31 % 251) as u8).collect()
}

/// Nothing of the flows is left, and each was counted once.
async fn over(cell: &Cell, path: Path, flows: u64) -> anyhow::Result<()> {
    until("the end of the flows", || {
        let totals = cell.server.flows().totals();
        let ended: u64 = proxy_user::flow::Outcome::ALL.into_iter().map(|how| totals.ended(path, how)).sum();
        ended == flows && totals.live(path) == 0
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_over_tls_takes_its_dial_with_it() {
    let cell = Cell::start(|server, _| over_tls(server)).await.unwrap();
    let target = Dark::new().unwrap();
    let load = || cell.server.dialer.registry.streams()[0].load();
    let mut client = tls(&cell, ALPN_HTTP1).await.unwrap();
    client.write_all(format!("CONNECT {} HTTP/1.1\r\n\r\n", target.address).as_bytes()).await.unwrap();
    until("the dial", || load() == 1).await.unwrap();
    client.shutdown().await.unwrap();
    until("the dial to be given up", || load() == 0).await.unwrap();
    ended_by_its_client(&cell).await;
}

on_every_path!(http_connect_over_tls, a_target_speaks_first_over_tls, grpc_over_tls, grpc_over_a_unix_socket);

async fn http_connect_over_tls(path: Path) -> anyhow::Result<()> {
    let cell = crate::paths::cell_with(path, over_tls).await?;
    let target = Target::echo().await?;
    let mut stream = tls(&cell, ALPN_HTTP1).await?;
    let request = format!("CONNECT {} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", target.name());
    stream.write_all(request.as_bytes()).await?;
    let mut head = [0; 39];
    tokio::time::timeout(SOON, stream.read_exact(&mut head)).await??;
    assert_eq!(&head, b"HTTP/1.1 200 Connection Established\r\n\r\n");
    let bytes = pattern(1 << 20);
    let (mut read, mut write) = tokio::io::split(stream);
    let (sent, back) = tokio::join!(
        async {
            write.write_all(&bytes).await?;
            write.shutdown().await
        },
        async {
            let mut back = Vec::new();
            tokio::time::timeout(SOON, read.read_to_end(&mut back)).await??;
            std::io::Result::Ok(back)
        },
    );
    sent?;
    assert!(back? == bytes, "other bytes came back");
    over(&cell, path, 1).await
}

/// What one read gives a client that reads by the record, as Go's do.
async fn record(socket: &mut TcpStream, session: &mut ClientConnection) -> anyhow::Result<Vec<u8>> {
    loop {
        let mut record = vec![0; 5];
        socket.read_exact(&mut record).await?;
        record.resize(5 + usize::from(u16::from_be_bytes([record[3], record[4]])), 0);
        socket.read_exact(&mut record[5..]).await?;
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            session.read_tls(&mut rest)?;
        }
        let mut text = vec![0; session.process_new_packets()?.plaintext_bytes_to_read()];
        std::io::Read::read_exact(&mut session.reader(), &mut text)?;
        // Session tickets have no text.
        if !text.is_empty() {
            return Ok(text);
        }
    }
}

/// Clients take the answer to their CONNECT for all that one read gives.
async fn a_target_speaks_first_over_tls(path: Path) -> anyhow::Result<()> {
    let cell = crate::paths::cell_with(path, over_tls).await?;
    let target = Target::start(|mut stream| async move {
        stream.write_all(b"SSH-2.0-x\r\n").await.unwrap();
        let _ = stream.read_u8().await;
    });
    let target = target.await?;
    let mut stream = tls(&cell, ALPN_HTTP1).await?;
    stream.write_all(format!("CONNECT {} HTTP/1.1\r\n\r\n", target.name()).as_bytes()).await?;
    stream.flush().await?;
    let (mut socket, mut session) = stream.into_inner();
    for expected in [&b"HTTP/1.1 200 Connection Established\r\n\r\n"[..], b"SSH-2.0-x\r\n"] {
        let read = tokio::time::timeout(SOON, record(&mut socket, &mut session)).await??;
        assert_eq!(String::from_utf8_lossy(&read), String::from_utf8_lossy(expected));
    }
    Ok(())
}

async fn grpc_over_tls(path: Path) -> anyhow::Result<()> {
    let cell = crate::paths::cell_with(path, |options| {
        options.mode = Mode::Grpc;
        over_tls(options);
    })
    .await?;
    let target = Target::echo().await?;
    let client = Client::new(tls(&cell, ALPN_H2).await?).await;
    // Several flows share a connection, as reusable tunnels do.
    let mut calls = Vec::new();
    for random in 1..4 {
        calls.push(dial(&client, &target.name(), random).await);
    }
    let ids: std::collections::HashSet<ConnId> = calls.iter().map(|(_, conn)| *conn).collect();
    assert_eq!(ids.len(), 3);
    for (call, conn) in &mut calls {
        let data = Bytes::from(pattern(10_000));
        call.say(Packet::Data { conn: *conn, data: data.clone() });
        let mut back = Vec::new();
        while back.len() < data.len() {
            let Some(Packet::Data { conn: of, data }) = call.hear().await else { anyhow::bail!("no DATA") };
            assert_eq!(of, *conn);
            back.extend_from_slice(&data);
        }
        assert!(back == data, "other bytes came back");
        call.say(Packet::CloseRequest { conn: *conn });
        assert_eq!(call.hear().await, Some(Packet::CloseResponse { conn: *conn, error: String::new() }));
        assert_eq!(call.status().await.0, "0");
    }
    over(&cell, path, 3).await
}

async fn dial(client: &Client, target: &str, random: i64) -> (Call, ConnId) {
    let mut call = client.call("/ProxyService/Proxy", &[]).await;
    let dial = DialId(random);
    let request = DialRequest { dial, protocol: "tcp".into(), address: target.into(), lane_dial: 0 };
    call.say(Packet::DialRequest(request));
    match call.hear().await {
        Some(Packet::DialResponse(DialResponse { dial: of, outcome: Ok(Answer::Here(conn)) }))
            if of == dial =>
        {
            assert_ne!(conn, ConnId::NONE);
            (call, conn)
        }
        other => panic!("{other:?}"),
    }
}

/// With the percent-encoded path of the socket as `:authority`, as every Go client has it.
async fn grpc_over_a_unix_socket(path: Path) -> anyhow::Result<()> {
    use std::io::{Read, Write};

    let cell = crate::paths::cell_with(path, |options| options.mode = Mode::Grpc).await?;
    let target = Target::echo().await?;
    let (socket, address) = (cell.server.socket().to_owned(), target.address);
    let flow = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        let mut conn = GrpcConn::dial(&socket, &address, SOON)?;
        conn.set_timeout(Some(SOON))?;
        let bytes = pattern(4 << 20);
        let mut writer = conn.clone();
        let sent = bytes.clone();
        let writing = std::thread::spawn(move || writer.write_all(&sent));
        let mut back = vec![0; bytes.len()];
        conn.read_exact(&mut back)?;
        assert!(back == bytes, "other bytes came back");
        writing.join().expect("the writer panicked")?;
        conn.shutdown(std::net::Shutdown::Write)?;
        assert_eq!(conn.read(&mut back)?, 0);
        Ok(())
    });
    flow.await??;
    over(&cell, path, 1).await?;
    // The socket speaks one protocol only.
    assert!(connect(cell.server.socket(), &target.name()).await.is_err());
    Ok(())
}
