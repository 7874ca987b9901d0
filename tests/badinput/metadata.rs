//! Headers far beyond the 16 KiB that HTTP/2 libraries take by default: a token and many identifiers come to that.

use proxy_tests::calls::Client;
use proxy_tests::konduit::Frontend;
use proxy_tests::targets::Target;
use proxy_user::server::options::{Strategies, Strategy};
use proxy_user::wire::ids::ConnId;
use proxy_user::wire::packet::Packet;
use tokio::net::UnixStream;

use crate::cell::{Cell, Plan};
use crate::control_stream::{CONNECT, PROXY, agent, dial};
use crate::{Witness, panics};

/// What both ports take, as upstream's: one field of so much and many of little.
const LARGE: usize = 64 << 10;

fn many(bytes: usize) -> Vec<(String, String)> {
    (0..bytes / 64).map(|at| (format!("x-{at}"), "v".repeat(64))).collect()
}

fn borrowed(fields: &[(String, String)]) -> Vec<(&str, &str)> {
    fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_agent() {
    panics::watch();
    let strategies = Strategies(vec![Strategy::DestHost, Strategy::Default]);
    let cell = Cell::with(Plan::default(), |options| options.proxy_strategies = strategies).await.unwrap();
    let mut witness = Witness::new(&cell).await;
    let hosts: Vec<String> = (0..LARGE / 16).map(|at| format!("host=node-{at:06}")).collect();
    let (identifiers, fields) = (hosts.join("&"), many(LARGE));
    let mut metadata = borrowed(&fields);
    metadata.extend([("agentid", "large"), ("agentidentifiers", identifiers.as_str())]);
    let mut call = agent(&cell).await.call(CONNECT, &metadata).await;
    assert!(call.answered().await.contains_key("serverid"));
    cell.server_counts("ready_backends", &[("proxy_strategy", "default")], 2.0).await;
    let last = format!("node-{:06}", hosts.len() - 1);
    let registered =
        cell.server.registry().streams().iter().any(|stream| stream.identifiers.host.contains(&last));
    assert!(registered, "{last}");

    witness.still_works().await;
    assert_eq!(panics::seen(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_api_server() {
    panics::watch();
    let cell = Cell::start(Plan { frontend: Frontend::Grpc, ..Plan::default() }).await.unwrap();
    let target = Target::echo().await.unwrap();
    let (mut neighbour, conn) = dial(&api_server(&cell).await, &target.name()).await;
    let conn = conn.unwrap();
    let fields = many(LARGE);
    let value = "v".repeat(LARGE);
    let mut metadata = borrowed(&fields);
    metadata.push(("user-agent", &value));
    let mut call = api_server(&cell).await.call(PROXY, &metadata).await;
    assert!(call.answered().await.contains_key("content-type"));
    call.say(Packet::CloseRequest { conn: ConnId(5) });
    let error = "backend uninitialized".to_owned();
    assert_eq!(call.hear().await, Some(Packet::CloseResponse { conn: ConnId(5), error }));

    neighbour.say(Packet::Data { conn, data: "still here".into() });
    assert_eq!(neighbour.hear().await, Some(Packet::Data { conn, data: "still here".into() }));
    assert_eq!(panics::seen(), [""; 0]);
}

async fn api_server(cell: &Cell) -> Client {
    Client::new(UnixStream::connect(cell.socket()).await.unwrap()).await
}
