//! The admin listener: `/metrics` and, with `--enable-profiling`, `/debug/pprof`.

use http::StatusCode;

use super::flags::Port;
use super::http::{Ask, Page, Pages};
use super::metrics::ScrapePage;
use super::pprof;

/// Where `/metrics` of the admin listener leads.
enum Metrics {
    /// A server answers itself.
    Here(ScrapePage),
    /// An agent sends the scraper to its health listener.
    AtPort(Port),
}

/// What the admin listener answers.
pub struct Admin {
    metrics: Metrics,
    profiling: bool,
}

impl Admin {
    pub fn server(metrics: ScrapePage, profiling: bool) -> Admin {
        Admin { metrics: Metrics::Here(metrics), profiling }
    }

    pub fn agent(health_port: Port, profiling: bool) -> Admin {
        Admin { metrics: Metrics::AtPort(health_port), profiling }
    }
}

impl Pages for Admin {
    async fn answer(&self, ask: Ask) -> Page {
        match (ask.uri.path(), &self.metrics) {
            ("/metrics", Metrics::Here(page)) => page.answer(&ask),
            ("/metrics", Metrics::AtPort(Port(port))) => {
                let query = ask.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
                Page::moved(&format!("//{}:{port}/metrics{query}", ask.host()))
            }
            ("/debug/pprof", _) if self.profiling => Page::moved("/debug/pprof/"),
            (path, _) if self.profiling => match path.strip_prefix("/debug/pprof/") {
                Some(name) => pprof::answer(name, &ask).await,
                None => Page::not_found(),
            },
            _ => Page::not_found(),
        }
    }
}

/// A page in words, for what does not exist here.
pub(super) fn explain(status: StatusCode, words: &str) -> Page {
    Page::text(status, format!("{words}\n"))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method, Uri, header};

    use prometheus::Registry;

    use super::*;

    async fn get(admin: &Admin, uri: &'static str) -> Page {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("node.example:8094"));
        admin.answer(Ask { method: Method::GET, uri: Uri::from_static(uri), headers }).await
    }

    fn location(page: &Page) -> Option<&str> {
        let (_, value) = page.headers.iter().find(|(name, _)| name == header::LOCATION)?;
        value.to_str().ok()
    }

    #[tokio::test]
    async fn an_agent_redirects_and_a_server_answers() {
        let agent = Admin::agent(Port(8093), false);
        let page = get(&agent, "/metrics?x=1").await;
        assert_eq!(page.status, StatusCode::MOVED_PERMANENTLY);
        assert_eq!(location(&page), Some("//node.example:8093/metrics?x=1"));
        let server = Admin::server(ScrapePage::new(&Registry::new()).unwrap(), false);
        assert_eq!(get(&server, "/metrics").await.status, StatusCode::OK);
    }

    #[tokio::test]
    async fn profiles_exist_only_when_asked_for() {
        let off = Admin::agent(Port(8093), false);
        assert_eq!(get(&off, "/debug/pprof/").await, Page::not_found());
        let on = Admin::agent(Port(8093), true);
        assert_eq!(location(&get(&on, "/debug/pprof").await), Some("/debug/pprof/"));
        assert_eq!(get(&on, "/debug/pprof/").await.status, StatusCode::OK);
        assert_eq!(get(&on, "/debug/pprof/cmdline").await, Page::not_found());
        assert_eq!(get(&on, "/elsewhere").await, Page::not_found());
    }
}
