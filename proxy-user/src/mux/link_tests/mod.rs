//! Links against each other, in memory.

mod ends;
mod outlet;
mod upstream;
mod windows;

use std::time::Duration;

use super::*;
use crate::mux::brake::Limits;
use crate::mux::{LinkEnd, MuxStream};

/// The largest wait that is no failure on a machine that is busy.
const SOON: Duration = Duration::from_secs(20);

/// A dialer and an acceptor whose outlets are each other's inbound.
fn links(dialect: Dialect, limits: Limits) -> (Link, Link) {
    let (dialer, from_dialer) = Link::new(LinkConfig::alone(Role::Dialer, dialect, limits));
    let (acceptor, from_acceptor) = Link::new(LinkConfig::alone(Role::Acceptor, dialect, limits));
    let (a, b) = (dialer.clone(), acceptor.clone());
    tokio::spawn(async move { a.run(from_acceptor, |_| {}).await });
    tokio::spawn(async move { b.run(from_dialer, |_| {}).await });
    (dialer, acceptor)
}

/// One flow between both.
fn flow(dialer: &Link, acceptor: &Link) -> (MuxStream, MuxStream) {
    let there = acceptor.open().unwrap();
    (dialer.attach(there.conn()).unwrap(), there)
}

/// Waits until neither link has a flow.
async fn hold_nothing(dialer: &Link, acceptor: &Link) {
    let empty = async {
        while dialer.flows() + acceptor.flows() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, empty).await.unwrap();
}
