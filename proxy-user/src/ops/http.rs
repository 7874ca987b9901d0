//! The small HTTP/1 server behind health, admin and the operator socket.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

use crate::net::newcomers::{Newcomer, Newcomers};

/// Upstream's limit for reading a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// What is known of a request. Bodies are not read.
#[derive(Debug)]
pub struct Ask {
    pub method: http::Method,
    pub uri: Uri,
    pub headers: HeaderMap,
}

impl Ask {
    /// Whether the query has `key`, with or without a value.
    pub fn has(&self, key: &str) -> bool {
        self.queries().any(|(name, _)| name == key)
    }

    /// The value of `key` in the query.
    pub fn query(&self, key: &str) -> Option<&str> {
        self.queries().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    pub fn queries(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    /// The host that was asked, without its port, as it goes into a URL.
    pub fn host(&self) -> &str {
        let host = self.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub status: StatusCode,
    pub body: Bytes,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Page {
    pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Page {
        Page::of("text/plain; charset=utf-8", status, body)
    }

    pub fn of(content_type: &'static str, status: StatusCode, body: impl Into<Bytes>) -> Page {
        let headers = vec![(header::CONTENT_TYPE, HeaderValue::from_static(content_type))];
        Page { status, body: body.into(), headers }
    }

    /// As Go's file-less server says it.
    pub fn not_found() -> Page {
        Page::text(StatusCode::NOT_FOUND, "404 page not found\n")
            .with(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))
    }

    /// As Go's `http.Redirect`.
    pub fn moved(location: &str) -> Page {
        let body = format!("<a href=\"{location}\">Moved Permanently</a>.\n\n");
        match HeaderValue::from_str(location) {
            Ok(value) => Page::of("text/html; charset=utf-8", StatusCode::MOVED_PERMANENTLY, body)
                .with(header::LOCATION, value),
            Err(_) => Page::text(StatusCode::BAD_REQUEST, "400 Bad Request\n"),
        }
    }

    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Page {
        self.headers.push((name, value));
        self
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response
    }
}

/// Answers requests.
pub trait Pages: Send + Sync + 'static {
    fn answer(&self, ask: Ask) -> impl Future<Output = Page> + Send;
}

/// Serves connections from `accept` until dropped, which ends every connection. There are at most so many as there is
/// `room` for: for the next one the one closes that was silent longest, so that who says nothing never keeps a prober
/// waiting. Who is closed for want of `room`, or says what is no `request` of HTTP/1, is `refused` with that word.
pub async fn serve<P, S, A, F>(
    accept: A,
    pages: Arc<P>,
    room: usize,
    refused: impl Fn(&'static str) + Clone + Send + Sync + 'static,
) where
    P: Pages,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn() -> F,
    F: Future<Output = S>,
{
    let newcomers = Newcomers::new(room);
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = accept() => stream,
            Some(_) = connections.join_next() => continue,
        };
        let Some(newcomer) = newcomers.admit().await else {
            refused("room");
            continue;
        };
        let (pages, refused) = (pages.clone(), refused.clone());
        connections.spawn(async move {
            tokio::select! {
                () = connection(stream, pages, &newcomer, HEAD_TIMEOUT, &refused) => {}
                () = newcomer.lost() => refused("room"),
            }
        });
    }
}

async fn connection<P: Pages>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    pages: Arc<P>,
    newcomer: &Newcomer,
    head_timeout: Duration,
    refused: impl Fn(&'static str),
) {
    let service = service_fn(|request: Request<Incoming>| {
        let (head, _) = request.into_parts();
        let pages = pages.clone();
        async move {
            let _busy = newcomer.busy();
            let ask = Ask { method: head.method, uri: head.uri, headers: head.headers };
            Ok::<_, Infallible>(pages.answer(ask).await.into_response())
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        // Who leaves, or says nothing more, is no fault: probers do.
        if error.is_parse() {
            refused("request");
        }
        tracing::trace!(%error, "An HTTP connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Yes;

    impl Pages for Yes {
        async fn answer(&self, _: Ask) -> Page {
            Page::text(StatusCode::OK, "yes")
        }
    }

    /// Also the one that asked before and left its connection open.
    #[tokio::test]
    async fn who_does_not_ask_is_closed_in_time() {
        for said in ["", "GET /healthz HT", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
            let (mut client, server) = tokio::io::duplex(1024);
            let serving = tokio::spawn(async {
                let newcomer = Newcomers::new(1).admit().await.unwrap();
                let refused = |_| panic!("refused");
                connection(server, Arc::new(Yes), &newcomer, Duration::from_millis(100), refused).await;
            });
            client.write_all(said.as_bytes()).await.unwrap();
            let mut answer = String::new();
            let read = client.read_to_string(&mut answer);
            tokio::time::timeout(Duration::from_secs(10), read).await.expect("it stays open").unwrap();
            assert_eq!(answer.ends_with("\r\n\r\nyes"), said.ends_with("\r\n\r\n"), "{answer:?}");
            serving.await.unwrap();
        }
    }

    fn ask(uri: &'static str, host: &'static str) -> Ask {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static(host));
        Ask { method: http::Method::GET, uri: Uri::from_static(uri), headers }
    }

    #[test]
    fn hosts_lose_their_port_and_keep_their_brackets() {
        for (header, host) in
            [("node:8094", "node"), ("node", "node"), ("[::1]:8094", "[::1]"), ("[::1]", "[::1]"), ("", "")]
        {
            assert_eq!(ask("/", header).host(), host);
        }
    }

    #[test]
    fn queries_count_with_and_without_a_value() {
        let ask = ask("/readyz?verbose&seconds=3", "x");
        assert!(ask.has("verbose") && !ask.has("verb"));
        assert_eq!(ask.query("seconds"), Some("3"));
    }
}
