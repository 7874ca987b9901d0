//! The health listener: `/healthz`, `/readyz` (`/ready`) and `/metrics`, with upstream's codes and bodies.

use http::StatusCode;

use super::http::{Ask, Page, Pages};
use super::metrics::ScrapePage;

/// One thing that must hold for a process to be ready.
pub struct Check {
    pub name: &'static str,
    /// What is wrong when it does not hold.
    pub failing: &'static str,
    pub holds: Box<dyn Fn() -> bool + Send + Sync>,
}

/// What the health listener answers.
pub struct Health {
    checks: Vec<Check>,
    unready: StatusCode,
    /// Upstream's agent lists its checks, upstream's server says one sentence.
    lists: bool,
    metrics: ScrapePage,
}

impl Health {
    /// A server's health: ready when the first strategy has an agent.
    pub fn server(has_agent: impl Fn() -> bool + Send + Sync + 'static, metrics: ScrapePage) -> Health {
        let checks = vec![Check {
            name: "agent-connected",
            failing: "no connection to any proxy agent",
            holds: Box::new(has_agent),
        }];
        Health { checks, unready: StatusCode::INTERNAL_SERVER_ERROR, lists: false, metrics }
    }

    /// An agent's health: ready when one connection to a server is.
    pub fn agent(has_server: impl Fn() -> bool + Send + Sync + 'static, metrics: ScrapePage) -> Health {
        let ping = Check { name: "ping", failing: "", holds: Box::new(|| true) };
        let server =
            Check { name: "server-connected", failing: "no servers connected", holds: Box::new(has_server) };
        Health { checks: vec![ping, server], unready: StatusCode::SERVICE_UNAVAILABLE, lists: true, metrics }
    }

    fn readiness(&self, verbose: bool) -> Page {
        let results: Vec<(&Check, bool)> = self.checks.iter().map(|check| (check, (check.holds)())).collect();
        let failed = results.iter().find(|(_, holds)| !holds);
        let list = || -> String {
            let line = |(check, holds): &(&Check, bool)| match holds {
                true => format!("[+]{} ok\n", check.name),
                false => format!("[-]{} failed: {}\n", check.name, check.failing),
            };
            results.iter().map(line).collect()
        };
        match failed {
            Some(_) if self.lists => Page::text(self.unready, list()),
            Some((check, _)) => Page::text(self.unready, check.failing),
            None if self.lists && verbose => Page::text(StatusCode::OK, list() + "check passed\n"),
            None => Page::text(StatusCode::OK, "ok"),
        }
    }
}

impl Pages for Health {
    async fn answer(&self, ask: Ask) -> Page {
        match ask.uri.path() {
            "/healthz" => Page::text(StatusCode::OK, "ok"),
            "/readyz" | "/ready" => self.readiness(ask.has("verbose")),
            "/metrics" => self.metrics.answer(&ask),
            _ => Page::not_found(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use prometheus::Registry;

    use super::*;

    fn metrics() -> ScrapePage {
        ScrapePage::new(&Registry::new()).unwrap()
    }

    async fn get(health: &Health, uri: &'static str) -> (u16, String) {
        let ask = Ask {
            method: http::Method::GET,
            uri: http::Uri::from_static(uri),
            headers: http::HeaderMap::new(),
        };
        let page = health.answer(ask).await;
        (page.status.as_u16(), String::from_utf8(page.body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_agents_bodies_are_upstreams() {
        let connected = Arc::new(AtomicBool::new(false));
        let seen = connected.clone();
        let health = Health::agent(move || seen.load(Ordering::Relaxed), metrics());
        let failed = "[+]ping ok\n[-]server-connected failed: no servers connected\n".to_owned();
        for path in ["/readyz", "/ready", "/readyz?verbose"] {
            assert_eq!(get(&health, path).await, (503, failed.clone()), "{path}");
        }
        assert_eq!(get(&health, "/healthz").await, (200, "ok".to_owned()));
        connected.store(true, Ordering::Relaxed);
        assert_eq!(get(&health, "/readyz").await, (200, "ok".to_owned()));
        let passed = "[+]ping ok\n[+]server-connected ok\ncheck passed\n".to_owned();
        assert_eq!(get(&health, "/readyz?verbose").await, (200, passed));
        assert_eq!(get(&health, "/livez").await, (404, "404 page not found\n".to_owned()));
        assert_eq!(get(&health, "/readyz/").await.0, 404);
    }

    #[tokio::test]
    async fn the_servers_bodies_are_upstreams() {
        let connected = Arc::new(AtomicBool::new(false));
        let seen = connected.clone();
        let health = Health::server(move || seen.load(Ordering::Relaxed), metrics());
        let failed = "no connection to any proxy agent".to_owned();
        for path in ["/readyz", "/ready", "/readyz?verbose"] {
            assert_eq!(get(&health, path).await, (500, failed.clone()), "{path}");
        }
        assert_eq!(get(&health, "/healthz").await, (200, "ok".to_owned()));
        connected.store(true, Ordering::Relaxed);
        for path in ["/readyz", "/ready", "/readyz?verbose"] {
            assert_eq!(get(&health, path).await, (200, "ok".to_owned()), "{path}");
        }
    }
}
