//! Upstream's metrics that only a flow over gRPC moves.

use std::sync::Arc;
use std::time::Duration;

use proxy_tests::calls::Client;
use proxy_tests::runner::{Cell, SOON, until};
use proxy_tests::scrape::Page;
use proxy_tests::targets::Target;
use proxy_user::ops::flags::LanesMode;
use proxy_user::ops::metrics::encode;
use proxy_user::server::options::Mode;
use proxy_user::wire::ids::DialId;
use proxy_user::wire::packet::{Answer, DialRequest, DialResponse, Packet};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Notify;

fn page(registry: &prometheus::Registry) -> Page {
    Page::parse(&String::from_utf8(encode(registry).unwrap()).unwrap())
}

/// More than all buffers on the way hold.
const FLOOD: usize = 48 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_bytes_nobody_takes_is_counted_until_somebody_does() {
    let cell = Cell::start(|server, agent| {
        server.mode = Mode::Grpc;
        (server.lanes.mode, agent.lanes.mode) = (LanesMode::Off, LanesMode::Off);
    })
    .await
    .unwrap();
    let reads = Arc::new(Notify::new());
    let told = reads.clone();
    let target = Target::start(move |mut stream| {
        let reads = told.clone();
        async move {
            SockRef::from(&stream).set_recv_buffer_size(64 << 10).unwrap();
            stream.write_all(b"welcome").await.unwrap();
            reads.notified().await;
            // Until the client has gone.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await
    .unwrap();
    let client = Client::new(UnixStream::connect(cell.server.socket()).await.unwrap()).await;
    let mut call = client.call("/ProxyService/Proxy", &[]).await;
    let (dial, protocol, address) = (DialId(7), "tcp".to_owned(), target.name());
    call.say(Packet::DialRequest(DialRequest { dial, protocol, address, lane_dial: 0 }));
    let Some(Packet::DialResponse(DialResponse { outcome: Ok(Answer::Here(conn)), .. })) = call.hear().await
    else {
        panic!("the dial failed")
    };
    assert_eq!(call.hear().await, Some(Packet::Data { conn, data: "welcome".into() }));
    let registry = cell.server.dialer.metrics.registry();
    let full = || page(registry).sum("full_receive_channels", &[("service_method", "Proxy")]);
    assert_eq!(page(registry).sum("grpc_connections", &[("service_method", "Proxy")]), 1.0);
    assert_eq!(full(), 0.0);
    for _ in 0..FLOOD >> 16 {
        call.say(Packet::Data { conn, data: vec![7; 1 << 16].into() });
    }
    // A flow that moves has such moments too.
    let waits = async {
        let mut still = 0;
        while still < 20 {
            still = if full() == 1.0 { still + 1 } else { 0 };
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // All buffers on the way have to fill, which takes a busy machine its time.
    tokio::time::timeout(3 * SOON, waits).await.expect("no reader waits");
    reads.notify_one();
    until("a reader that does not", || full() == 0.0).await.unwrap();
    call.say(Packet::CloseRequest { conn });
    drop(call);
    until("the flow to end", || cell.server.flows().is_empty()).await.unwrap();
    let (server, agent) = (page(registry), page(cell.agent.metrics.registry()));
    assert_eq!(server.sum("connection_duration_seconds_count", &[]), 1.0);
    assert!(server.sum("frontend_write_duration_seconds_count", &[]) >= 1.0);
    for segment in ["from_client", "to_client", "from_agent", "to_agent"] {
        let data = [("segment", segment), ("packet_type", "DATA")];
        assert!(server.sum("stream_packets_total", &data) >= 1.0, "{segment}");
        if segment.ends_with("agent") {
            assert!(agent.sum("stream_packets_total", &data) >= 1.0, "{segment}");
        }
    }
    assert_eq!(full(), 0.0);
}
