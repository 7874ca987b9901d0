//! A server that says what it is told to, and the agent that keeps coming to it.

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use proxy_tests::calls::Call;
use proxy_tests::runner::{Ground, RunningAgent, until};
use proxy_tests::scrape::Page;
use proxy_user::agent::options::Options;
use proxy_user::net::cipher::TlsPolicy;
use proxy_user::net::listener::TcpListener;
use proxy_user::net::tls::{ALPN_H2, ServerEndpoint, ServerTls};
use proxy_user::ops::flags::LanesMode;
use proxy_user::ops::metrics;
use proxy_user::wire::ids::{ConnId, DialId};
use proxy_user::wire::packet::{Answer, DialRequest, DialResponse, Packet};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::cell::LONG;

/// On a busy machine a connection may be given up before its turn comes, hardly ever so many.
const TRIES: usize = 5;

pub(crate) struct Puppet {
    listener: TcpListener,
    tls: ServerEndpoint,
    /// It offers our dialect.
    ours: bool,
    pub agent: RunningAgent,
    _ground: Ground,
}

impl Puppet {
    pub(crate) fn start(ours: bool) -> Puppet {
        Puppet::with(ours, |_| {})
    }

    /// As [`Puppet::start`]; `change` has a last look at the agent's options.
    pub(crate) fn with(ours: bool, change: impl FnOnce(&mut Options)) -> Puppet {
        let ground = Ground::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1", 0).unwrap();
        let tls = ServerTls {
            cert: ground.path("server.crt"),
            key: ground.path("server.key"),
            client_ca: Some(ground.path("ca.crt")),
            alpn: vec![ALPN_H2.to_vec()],
            require_alpn: true,
            policy: TlsPolicy::default(),
        };
        let tls = tls.watch().unwrap();
        let mut options = ground.agent_options("agent", listener.local_addr().port());
        options.lanes.mode = LanesMode::Off;
        change(&mut options);
        let agent = RunningAgent::start(options).unwrap();
        Puppet { listener, tls, ours, agent, _ground: ground }
    }

    /// The agent's next connection, before anything was said on it. One that it has given up since it came is none.
    pub(crate) async fn connection(&self) -> TlsStream<TcpStream> {
        for _ in 0..TRIES {
            let accepted =
                tokio::time::timeout(LONG, self.listener.accept()).await.expect("the agent stays away");
            match self.tls.accept(accepted, LONG).await {
                Ok(accepted) => return accepted.stream,
                Err(error) => eprintln!("the next one: {error}"),
            }
        }
        panic!("the agent gives every connection up")
    }

    /// The agent's next call, unanswered.
    pub(crate) async fn call(&self) -> (http::Request<RecvStream>, SendResponse<Bytes>) {
        for _ in 0..TRIES {
            let Ok(mut connection) = h2::server::handshake(self.connection().await).await else { continue };
            let Some(Ok(call)) = connection.accept().await else { continue };
            tokio::spawn(async move { while let Some(Ok(_)) = connection.accept().await {} });
            return call;
        }
        panic!("the agent gives every call up")
    }

    /// The agent's next control stream.
    pub(crate) async fn stream(&self) -> Call {
        self.answer(&[("serverid", "puppet"), ("servercount", "1")]).await
    }

    /// As [`Puppet::stream`], answered with this, and with the dialect.
    pub(crate) async fn answer(&self, metadata: &[(&'static str, &'static str)]) -> Call {
        let mut metadata = metadata.to_vec();
        if self.ours {
            metadata.push(("konduit-mux", "1"));
        }
        for _ in 0..TRIES {
            let (request, respond) = self.call().await;
            if let Ok(call) = Call::try_answer(request, respond, &metadata) {
                return call;
            }
        }
        panic!("the agent gives up every call that is answered")
    }

    /// The sum of the agent's series whose name ends so and that carry these labels.
    pub(crate) fn count(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let text = metrics::encode(self.agent.metrics.registry()).unwrap();
        Page::parse(&String::from_utf8_lossy(&text)).sum(name, labels)
    }

    /// Neither a flow nor a connection to a target.
    pub(crate) async fn agent_has_nothing_left(&self, when: &str) {
        until(&format!("an end of every flow, {when}"), || self.agent.flows.is_empty()).await.unwrap();
        let left = || self.count("open_endpoint_connections", &[]) == 0.0;
        until(&format!("targets to be left, {when}"), left).await.unwrap();
    }
}

/// Waits for one packet among others; false when the call ended.
pub(crate) async fn hears(call: &mut Call, wanted: &Packet) -> bool {
    while let Some(packet) = call.hear().await {
        if packet == *wanted {
            return true;
        }
    }
    false
}

/// A flow to this target, as a server asks for one.
pub(crate) async fn dial(call: &mut Call, target: &str) -> ConnId {
    call.say(Packet::DialRequest(DialRequest {
        dial: DialId(9),
        protocol: "tcp".into(),
        address: target.into(),
        lane_dial: 0,
    }));
    let answer = call.hear().await;
    let Some(Packet::DialResponse(DialResponse { dial: DialId(9), outcome: Ok(Answer::Here(conn)) })) =
        answer
    else {
        panic!("{answer:?}")
    };
    conn
}

/// Bytes to an echo and back.
pub(crate) async fn ping(call: &mut Call, conn: ConnId) {
    let packet = Packet::Data { conn, data: "ping".into() };
    call.say(packet.clone());
    assert!(hears(call, &packet).await, "the stream ended");
}
