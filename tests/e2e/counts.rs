//! Upstream's metrics that only a flow over gRPC moves.

use proxy_tests::calls::Client;
use proxy_tests::runner::{Cell, until};
use proxy_tests::scrape::Page;
use proxy_tests::targets::Target;
use proxy_user::ops::flags::LanesMode;
use proxy_user::ops::metrics::encode;
use proxy_user::server::options::Mode;
use proxy_user::wire::ids::DialId;
use proxy_user::wire::packet::{Answer, DialRequest, DialResponse, Packet};
use tokio::net::UnixStream;

fn page(registry: &prometheus::Registry) -> Page {
    Page::parse(&String::from_utf8(encode(registry).unwrap()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flow_on_packets_is_counted_on_every_segment() {
    let cell = Cell::start(|server, agent| {
        server.mode = Mode::Grpc;
        (server.lanes.mode, agent.lanes.mode) = (LanesMode::Off, LanesMode::Off);
    })
    .await
    .unwrap();
    let target = Target::echo().await.unwrap();
    let client = Client::new(UnixStream::connect(cell.server.socket()).await.unwrap()).await;
    let mut call = client.call("/ProxyService/Proxy", &[]).await;
    let (dial, protocol, address) = (DialId(7), "tcp".to_owned(), target.name());
    call.say(Packet::DialRequest(DialRequest { dial, protocol, address, lane_dial: 0 }));
    let Some(Packet::DialResponse(DialResponse { outcome: Ok(Answer::Here(conn)), .. })) = call.hear().await
    else {
        panic!("the dial failed")
    };
    call.say(Packet::Data { conn, data: "there and back".into() });
    assert_eq!(call.hear().await, Some(Packet::Data { conn, data: "there and back".into() }));
    let registry = cell.server.dialer.metrics.registry();
    assert_eq!(page(registry).sum("grpc_connections", &[("service_method", "Proxy")]), 1.0);
    call.say(Packet::CloseRequest { conn });
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
}
