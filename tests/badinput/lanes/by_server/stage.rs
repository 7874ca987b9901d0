//! Where servers are played.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use proxy_tests::calls::Call;
use proxy_tests::dark::Dark;
use proxy_tests::runner::Ground;
use proxy_tests::targets::Target;
use proxy_user::lane::ALPN_LANE;
use proxy_user::net::cipher::TlsPolicy;
use proxy_user::net::listener::{Remote, TcpListener};
use proxy_user::net::tls::{ALPN_H2, ServerTls};
use proxy_user::wire::ids::ConnId;
use proxy_user::wire::packet::Packet;
use tokio::net::TcpStream;
use tokio::sync::{Mutex as Turn, mpsc};
use tokio_rustls::server::TlsStream;

use super::super::lane::Socket;
use crate::cell::LONG;
use crate::puppet;

/// One agent that finds ever more servers, each of them played; the first is the bystander's.
pub(super) struct Stage {
    /// Control streams, and the ids of the servers they are with.
    pub(super) streams: Turn<mpsc::Receiver<(String, Call)>>,
    /// Whoever has its turn has the next lane.
    pub(super) lanes: Turn<mpsc::Receiver<TlsStream<TcpStream>>>,
    pub(super) next_dial: AtomicU64,
    pub(super) echo: Target,
    pub(super) dark: Dark,
    pub(super) played: Arc<Mutex<Vec<(String, Socket)>>>,
}

/// Whether the agent has not given the call up before it was answered.
async fn is_taken(call: &mut Call) -> bool {
    let conn = ConnId(777_777);
    let reason = "unrecognized connectID".to_owned();
    call.try_say(Packet::Data { conn, data: "?".into() })
        && puppet::hears(call, &Packet::Reset { conn, reason }).await
}

/// Plays every server that the agent finds; those without a case wait for one. The agent gives up who lets it wait for
/// long, so a connection that ends early is no fault.
pub(super) async fn accept(listener: TcpListener, ground: &Ground) -> Arc<Stage> {
    let tls = ServerTls {
        cert: ground.path("server.crt"),
        key: ground.path("server.key"),
        client_ca: Some(ground.path("ca.crt")),
        alpn: vec![ALPN_LANE.to_vec(), ALPN_H2.to_vec()],
        require_alpn: true,
        policy: TlsPolicy::default(),
    };
    let tls = tls.watch().unwrap();
    let played: Arc<Mutex<Vec<(String, Socket)>>> = Arc::default();
    let ended = played.clone();
    let (to_streams, streams) = mpsc::channel(1);
    let (to_lanes, lanes) = mpsc::channel(1);
    tokio::spawn(async move {
        for number in 0.. {
            let Ok(accepted) = tls.accept(listener.accept().await, LONG).await else { continue };
            // Whoever had the port before is gone.
            ended.lock().unwrap().retain(|(_, socket)| Remote::Tcp(socket.local) != accepted.remote);
            if accepted.tls.unwrap().alpn.as_deref() == Some(ALPN_LANE) {
                let Ok(()) = to_lanes.send(accepted.stream).await else { return };
                continue;
            }
            let to_streams = to_streams.clone();
            tokio::spawn(async move {
                // Whoever waits for the agent's next stream lets it come.
                let Ok(place) = to_streams.reserve().await else { return };
                let Ok(mut connection) = h2::server::handshake(accepted.stream).await else { return };
                let Some(Ok((request, respond))) = connection.accept().await else { return };
                tokio::spawn(async move { while let Some(Ok(_)) = connection.accept().await {} });
                let (server, ticket) = (format!("played-{number}"), "05".repeat(48));
                let metadata = [
                    ("serverid", server.as_str()),
                    ("servercount", "100000"),
                    ("konduit-mux", "1"),
                    ("konduit-lane", "1"),
                    ("konduit-lane-ticket", &ticket),
                ];
                let Ok(mut call) = Call::try_answer(request, respond, &metadata) else { return };
                if is_taken(&mut call).await {
                    place.send((server, call));
                }
            });
        }
    });
    let stage = Stage {
        streams: Turn::new(streams),
        lanes: Turn::new(lanes),
        next_dial: AtomicU64::new(1),
        echo: Target::echo().await.unwrap(),
        dark: Dark::new().unwrap(),
        played,
    };
    Arc::new(stage)
}
