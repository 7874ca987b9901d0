//! Binds and serves the listeners beside the flows: health, admin, operator socket; watches the live settings.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::http::{Pages, serve};
use super::metrics::KonduitMetrics;
use super::operator::{Desk, OperatorSocket};
use super::settings::{self, Live};
use crate::net::listener::TcpListener;

/// Serves until dropped. What cannot be bound is told in the log and left out, as upstream does it: flows matter
/// more than their metrics.
#[derive(Debug)]
pub struct Listeners {
    pub health: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub operator: Option<PathBuf>,
    /// Connections at a time, at each.
    room: usize,
    metrics: KonduitMetrics,
    tasks: JoinSet<()>,
}

impl Listeners {
    /// Each of them has `room` for so many connections at a time. Who finds none, and what is no request, is counted in
    /// `metrics`.
    pub fn new(room: usize, metrics: &KonduitMetrics) -> Listeners {
        let metrics = metrics.clone();
        Listeners { health: None, admin: None, operator: None, room, metrics, tasks: JoinSet::new() }
    }

    /// Must be called inside a tokio runtime, as the others.
    pub fn health(&mut self, host: &str, port: u16, pages: impl Pages) {
        self.health = self.http("health", host, port, pages);
    }

    pub fn admin(&mut self, host: &str, port: u16, pages: impl Pages) {
        self.admin = self.http("admin", host, port, pages);
    }

    fn http(&mut self, name: &'static str, host: &str, port: u16, pages: impl Pages) -> Option<SocketAddr> {
        match TcpListener::bind(host, port) {
            Ok(listener) => {
                let local = listener.local_addr();
                let (room, refused) = (self.room, self.refused(name));
                self.tasks.spawn(async move {
                    let accept = || async { listener.accept().await.stream };
                    serve(accept, Arc::new(pages), room, refused).await;
                });
                Some(local)
            }
            Err(error) => {
                tracing::error!(listener = name, %error, "This listener is left out");
                None
            }
        }
    }

    fn refused(&self, name: &'static str) -> impl Fn(&'static str) + Clone + Send + Sync + 'static {
        let metrics = self.metrics.clone();
        move |reason| metrics.refused(name, reason)
    }

    /// Nothing for an empty `path`.
    pub fn operator(&mut self, path: &str, desk: Desk) {
        if path.is_empty() {
            return;
        }
        match OperatorSocket::bind(path.as_ref()) {
            Ok(socket) => {
                self.operator = Some(path.into());
                self.tasks.spawn(socket.serve(desk, self.room, self.refused("operator")));
            }
            Err(error) => {
                tracing::warn!(%error, "There is no operator socket; flows, doctor and set will not answer")
            }
        }
    }

    /// Nothing for an empty `path`.
    pub fn live_settings(&mut self, path: &str, live: Live) {
        if !path.is_empty() {
            self.tasks.spawn(settings::watch_file(path.into(), live));
        }
    }

    /// Lets another task live as long as the listeners.
    pub fn keep(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus::Registry;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::flow::FlowTable;
    use crate::ops::health::Health;
    use crate::ops::metrics::{ScrapePage, ServerMetrics};

    fn metrics() -> ScrapePage {
        ScrapePage::new(&Registry::new()).unwrap()
    }

    fn listeners() -> Listeners {
        Listeners::new(16, &ServerMetrics::new(&FlowTable::new()).unwrap().konduit)
    }

    #[tokio::test]
    async fn a_port_in_use_is_left_out_and_the_other_serves() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let mut listeners = listeners();
        listeners.admin("127.0.0.1", port, Health::agent(|| true, metrics()));
        listeners.health("127.0.0.1", 0, Health::agent(|| true, metrics()));
        assert_eq!(listeners.admin, None);
        let health = listeners.health.unwrap();
        let answer = ask(health).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
    }

    /// A liveness probe that times out restarts the process, and with it goes every flow.
    #[tokio::test]
    async fn connections_that_say_nothing_keep_no_prober_out() {
        let mut listeners = listeners();
        listeners.health("127.0.0.1", 0, Health::agent(|| true, metrics()));
        let health = listeners.health.unwrap();
        let mut silent = Vec::new();
        for _ in 0..600 {
            let mut stream = TcpStream::connect(health).await.unwrap();
            stream.write_all(b"GET /healthz HTTP/1.1\r\nHo").await.unwrap();
            silent.push(stream);
        }
        let answer = tokio::time::timeout(Duration::from_secs(5), ask(health)).await;
        assert!(answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 OK\r\n")));
    }

    async fn ask(health: SocketAddr) -> String {
        let mut stream = TcpStream::connect(health).await.unwrap();
        let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }
}
