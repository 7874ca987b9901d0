//! Connections and requests.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::{Mood, State, failure, lock};
use crate::certs::Pair;

type Body = BoxBody<Bytes, Infallible>;

pub(super) fn tls(pair: &Pair, ca: &Path) -> anyhow::Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients.allow_unauthenticated().build()?)
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&pair.cert)?],
            PrivateKeyDer::from_pem_file(&pair.key)?,
        )?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

pub(super) async fn serve(listener: TcpListener, tls: TlsAcceptor, state: &'static State) {
    while let Ok((socket, _)) = listener.accept().await {
        // Connections of an absent server's past must not answer either: see `answer`.
        if *lock(&state.mood) != Mood::Absent {
            tokio::spawn(connection(socket, tls.clone(), state));
        }
    }
}

async fn connection(socket: TcpStream, tls: TlsAcceptor, state: &'static State) {
    let Ok(stream) = tls.accept(socket).await else { return };
    let certified = stream.get_ref().1.peer_certificates().is_some();
    let service = service_fn(move |request| async move {
        let answer = answer(request, certified, state).await;
        answer.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::ConnectionReset))
    });
    // A client that goes away is no matter.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// `None` ends the connection.
async fn answer(
    request: Request<Incoming>,
    certified: bool,
    state: &'static State,
) -> Option<Response<Body>> {
    let (head, body) = request.into_parts();
    lock(&state.asked).push(format!("{} {}", head.method, head.uri));
    let mood = *lock(&state.mood);
    match mood {
        Mood::Well => {}
        Mood::Slow(by) => tokio::time::sleep(by).await,
        Mood::Refuses(code) => {
            return Some(reply(failure(code, "Unwell", "the stand-in was told to refuse")));
        }
        Mood::Hangs => std::future::pending().await,
        Mood::Absent => return None,
    }
    let shown = head.headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let expected = format!("Bearer {}", lock(&state.credential));
    if !certified && shown != Some(&expected) {
        return Some(reply(failure(401, "Unauthorized", "Unauthorized")));
    }
    let bytes = body.collect().await.ok()?.to_bytes();
    let object: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let path: Vec<&str> = head.uri.path().trim_matches('/').split('/').collect();
    let method = head.method.as_str();
    let query = |key: &str| {
        let pairs = head.uri.query().unwrap_or_default().split('&');
        let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == key);
        value.map(|(_, value)| unescape(value)).unwrap_or_default()
    };
    let selector = query("labelSelector");
    let from = query("resourceVersion").parse().unwrap_or(0);
    let limit = Duration::from_secs(query("timeoutSeconds").parse().unwrap_or(60));
    let leases = |namespace: &str| {
        // As API servers without streaming lists; client-go then lists first.
        if !query("sendInitialEvents").is_empty() {
            return reply(failure(422, "Invalid", "sendInitialEvents is forbidden"));
        }
        if query("watch").is_empty() {
            return reply(state.leases.list(namespace, &selector));
        }
        if let Some(refused) = state.leases.no_watch() {
            return reply(refused);
        }
        let namespace = namespace.to_owned();
        let since = move |version| state.leases.since(&namespace, version, &selector);
        watch(state, from, limit, state.leases.changes(), since)
    };
    Some(match path[..] {
        ["apis", "authentication.k8s.io", "v1", "tokenreviews"] if method == "POST" => {
            reply(lock(&state.tokens).review(object))
        }
        ["apis", "coordination.k8s.io", "v1", "leases"] if method == "GET" => leases(""),
        // No namespace has an empty name.
        ["apis", "coordination.k8s.io", "v1", "namespaces", namespace, "leases"] if !namespace.is_empty() => {
            match method {
                "POST" => {
                    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                    reply(state.leases.one("POST", (namespace.into(), name), object))
                }
                _ => leases(namespace),
            }
        }
        ["api", "v1", "nodes"] if query("watch").is_empty() => {
            reply(state.nodes.list(query("limit").parse().unwrap_or(0), &query("continue")))
        }
        ["api", "v1", "nodes"] => {
            watch(state, from, limit, state.nodes.changes(), |version| state.nodes.since(version))
        }
        ["apis", "coordination.k8s.io", "v1", "namespaces", namespace, "leases", name] => {
            reply(state.leases.one(method, (namespace.into(), name.into()), object))
        }
        _ => reply(failure(404, "NotFound", "the server could not find the requested resource")),
    })
}

/// One line of JSON for each event that `since` a version happened, until `limit` or an unwell mood ends it.
fn watch(
    state: &'static State,
    from: u64,
    limit: Duration,
    changes: watch::Receiver<u64>,
    since: impl Fn(u64) -> (u64, Vec<Value>) + Clone + Send + Sync + 'static,
) -> Response<Body> {
    let ends = tokio::time::Instant::now() + limit;
    let lines = stream::unfold((from, changes), move |(mut seen, mut changes)| {
        let since = since.clone();
        async move {
            loop {
                changes.borrow_and_update();
                let (now, events) = since(seen);
                seen = now;
                if !events.is_empty() {
                    let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
                    return Some((Ok(Frame::data(Bytes::from(lines))), (seen, changes)));
                }
                let mut look = tokio::time::interval(Duration::from_millis(50));
                look.tick().await;
                while !changes.has_changed().ok()? {
                    if tokio::time::Instant::now() > ends || *lock(&state.mood) != Mood::Well {
                        return None;
                    }
                    look.tick().await;
                }
            }
        }
    });
    let mut response = Response::new(StreamBody::new(lines).boxed());
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}

fn reply((code, object): (u16, Value)) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(object.to_string())).boxed());
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}

/// Percent-encoding and `+`.
fn unescape(text: &str) -> String {
    let text = text.replace('+', " ");
    let mut parts = text.split('%');
    let mut out: Vec<u8> = parts.next().unwrap_or_default().into();
    for part in parts {
        let byte = part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.extend(byte);
        out.extend(&part.as_bytes()[if byte.is_some() { 2 } else { 0 }..]);
    }
    String::from_utf8_lossy(&out).into_owned()
}
