//! A proxy-server's life, from its options to its exit code.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use super::doctor;
use super::operate::operate;
use super::options::Options;
use super::{Server, StartError};
use crate::ops::drain;
use crate::ops::flags::LanesMode;
use crate::ops::life::{Ended, end_server};
use crate::ops::log::LogGuard;
use crate::ops::metrics::NodeCounts;
use crate::ops::phase::{Phase, PhaseTeller};
use crate::ops::signal::Signals;
use crate::splice::proof;

/// How long control streams may take to end once nothing runs on them.
const LAST: Duration = Duration::from_secs(1);

/// Serves until a signal. Must be called inside a tokio runtime.
///
/// # Errors
/// What keeps the server from starting.
pub async fn run(options: Options, log: &LogGuard) -> Result<ExitCode, StartError> {
    let mut signals = Signals::new().map_err(StartError::Signals)?;
    let abilities = proof::prove_aside(options.splice.engine).await;
    let server = Server::bind(options.clone(), &abilities)?;
    if let Some(kube) = server.kube() {
        kube.check().await?;
    }
    let dialer = server.dialer();
    dialer.metrics.konduit.show_counter(log.lost())?;
    let (metrics, flows, splicer) = (dialer.metrics.clone(), dialer.flows.clone(), dialer.splicer.clone());
    let registry = server.registry().clone();
    let phase = PhaseTeller::default();
    let now = phase.watch();
    // Whoever probes a server that ends must send nobody here any more.
    let ready = move || *now.borrow() < Phase::Draining && registry.is_ready();
    let news = server.nodes().map(|nodes| nodes.news().clone());
    let (registry, told) = (server.registry().clone(), news.clone());
    let nodes = move || {
        told.as_ref()
            .map_or_else(String::new, |news| doctor::nodes(&registry, &news.now(), SystemTime::now()))
    };
    let (mut listeners, live) = operate(&options, &metrics, &flows, &splicer, abilities, ready, nodes);
    if let Some(news) = news {
        let registry = server.registry().clone();
        metrics.konduit.show_nodes(move || NodeCounts {
            known: registry.known().nodes().len() as u64,
            heard: news
                .now()
                .heard
                .and_then(|heard| heard.duration_since(UNIX_EPOCH).ok())
                .map_or(0, |at| at.as_secs()),
        })?;
    }
    if let Some(lanes) = server.lanes().cloned() {
        let counted = lanes.clone();
        metrics.konduit.show_server_lanes(move || counted.stats())?;
        listeners.keep(live.each(move |now| {
            lanes.pace(now.lanes == LanesMode::Auto);
            lanes.allow(now.lanes != LanesMode::Off);
        }));
    }
    let (mut trigger, watch) = drain::channel();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(server.run(watch, stop.clone()));
    phase.reach(Phase::Serving);
    let ended = end_server(&mut signals, &phase, &mut trigger, options.graceful_shutdown_timeout).await;
    stop.cancel();
    Ok(match ended {
        Ended::InOrder => {
            // What is still running then ends with the runtime.
            let _ = tokio::time::timeout(LAST, serving).await;
            ExitCode::SUCCESS
        }
        Ended::AtOnce => ExitCode::FAILURE,
    })
}
