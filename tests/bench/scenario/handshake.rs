//! What a lane's TLS handshake costs each side, full and resumed: our own configurations over memory, on one thread,
//! without sockets or a runtime.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use proxy_tests::certs::Certs;
use proxy_user::lane::ALPN_LANE;
use proxy_user::net::tls::{ClientTls, ServerTls};
use rustix::time::{ClockId, clock_gettime};
use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection};
use rustls_pki_types::ServerName;

use crate::context::Context;
use crate::gate::Spread;
use crate::method::Line;

pub fn run(context: &mut Context) -> anyhow::Result<Vec<Line>> {
    let directory = context.directory.join("handshake");
    std::fs::create_dir_all(&directory)?;
    let certs = Certs::new(&directory, "handshake")?;
    let (server, agent) = (certs.server("server", &["localhost"])?, certs.client("agent", "agent", None)?);
    let (ca, alpn, policy) = (certs.ca(), vec![ALPN_LANE.to_vec()], Default::default());
    let client = ClientTls { ca: ca.clone(), identity: Some((agent.cert, agent.key)), alpn: alpn.clone() };
    let (cert, key) = (server.cert, server.key);
    let server = ServerTls { cert, key, client_ca: Some(ca), alpn, require_alpn: true, policy };
    let (resuming, server) = (client.load()?, Arc::new(server.load()?));
    let mut fresh = resuming.clone();
    fresh.resumption = Resumption::disabled();
    let kinds = [(HandshakeKind::Full, Arc::new(fresh)), (HandshakeKind::Resumed, Arc::new(resuming))];
    // The first of each brings what all others find.
    for (_, client) in &kinds {
        shake(client, &server, &mut Cost::default())?;
    }
    let count = context.choose(1000, 200);
    // By kind, then client and server; µs per round.
    let mut spent = [const { [const { Vec::new() }; 2] }; 2];
    for _ in 0..context.rounds() {
        for ((kind, client), [near, far]) in kinds.iter().zip(&mut spent) {
            let mut cost = Cost::default();
            for _ in 0..count {
                let made = shake(client, &server, &mut cost)?;
                ensure!(made == *kind, "{made:?} instead of {kind:?}");
            }
            near.push(cost.client as f64 / 1e3 / f64::from(count));
            far.push(cost.server as f64 / 1e3 / f64::from(count));
        }
    }
    let [full, resumed] = &spent;
    let named = [("full client", &full[0]), ("full server", &full[1])];
    let named = named.into_iter().chain([("resumed client", &resumed[0]), ("resumed server", &resumed[1])]);
    let values = named.filter_map(|(name, of)| Some((name.to_owned(), Spread::of(of)?))).collect();
    let both =
        |[near, far]: &[Vec<f64>; 2]| near.iter().zip(far).map(|(near, far)| near + far).collect::<Vec<_>>();
    let ratio = Spread::of_ratios(&both(resumed), &both(full)).context("no round was measured")?;
    Ok(vec![Line {
        figure: "CPU of one lane's handshake, certificates on both sides".to_owned(),
        unit: "µs",
        values,
        ratios: vec![("resumed / full, both sides".to_owned(), ratio)],
        gates: Vec::new(),
        notes: Vec::new(),
        shares: Vec::new(),
    }])
}

/// CPU time, ns.
#[derive(Default)]
struct Cost {
    client: i64,
    server: i64,
}

/// What `work` costs this thread is added to `cost`.
fn spend<T>(cost: &mut i64, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let now = || clock_gettime(ClockId::ThreadCPUTime);
    let before = now();
    let outcome = work();
    let after = now();
    *cost += (after.tv_sec - before.tv_sec) * 1_000_000_000 + (after.tv_nsec - before.tv_nsec);
    outcome
}

/// One handshake, its ticket included.
fn shake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    cost: &mut Cost,
) -> anyhow::Result<HandshakeKind> {
    let name = ServerName::try_from("localhost")?;
    let mut near = spend(&mut cost.client, || Ok(ClientConnection::new(client.clone(), name)?))?;
    let mut far = spend(&mut cost.server, || Ok(ServerConnection::new(server.clone())?))?;
    let mut wire = Vec::new();
    loop {
        spend(&mut cost.client, || {
            let mut unread = wire.as_slice();
            while !unread.is_empty() {
                near.read_tls(&mut unread)?;
                near.process_new_packets()?;
            }
            wire.clear();
            while near.wants_write() {
                near.write_tls(&mut wire)?;
            }
            Ok(())
        })?;
        spend(&mut cost.server, || {
            let mut unread = wire.as_slice();
            while !unread.is_empty() {
                far.read_tls(&mut unread)?;
                far.process_new_packets()?;
            }
            wire.clear();
            while far.wants_write() {
                far.write_tls(&mut wire)?;
            }
            Ok(())
        })?;
        if wire.is_empty() && !near.is_handshaking() && !far.is_handshaking() {
            return far.handshake_kind().context("no handshake");
        }
    }
}
