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

/// Some of the dials are asked on the control stream and answered on a lane, the others are on one altogether.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_and_its_answer_count_as_packets_wherever_they_travel() {
    let cell = Cell::start(|server, agent| {
        (server.lanes.mode, agent.lanes.mode) = (LanesMode::Always, LanesMode::Always);
    })
    .await
    .unwrap();
    let target = Target::echo().await.unwrap();
    let (dials, failing) = (8, 4);
    for at in 0..dials + failing {
        let address = if at < dials { target.name() } else { "127.0.0.1:1".to_owned() };
        let opened = cell.server.open(&address).await;
        assert_eq!(opened.is_ok(), at < dials);
        drop(opened);
        until("the flow to end", || cell.server.flows().is_empty()).await.unwrap();
    }
    let registry = cell.server.dialer.metrics.registry();
    let on_packets = page(registry).sum("konduit_dial_seconds_count", &[("path", "mux")]);
    assert!(on_packets < f64::from(dials), "{on_packets}");
    for (segment, packet_type) in [("to_agent", "DIAL_REQ"), ("from_agent", "DIAL_RSP")] {
        let labels = [("segment", segment), ("packet_type", packet_type)];
        for registry in [registry, cell.agent.metrics.registry()] {
            let counted = || page(registry).sum("stream_packets_total", &labels);
            // An agent may hear of a joined lane after its server's client does.
            let all = until(segment, || counted() >= f64::from(dials + failing)).await;
            assert_eq!(counted(), f64::from(dials + failing), "{segment}: {all:?}");
        }
    }
}
