//! The way to a server: through a proxy where the environment names one, TLS at the end of it. Control streams and
//! lanes take the same.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::options::Options;
use super::proxy::Proxy;
use crate::lane::ALPN_LANE;
use crate::lane::open::{BoxFuture, Route as LaneRoute, RouteError};
use crate::lane::record::RecordExact;
use crate::net::dial::connect;
use crate::net::resolve::Names;
use crate::net::tls::{ALPN_H2, ClientEndpoint, ClientTls, HandshakeError, TlsError, alpn_list};

/// For TCP and TLS together, as upstream.
const LIMIT: Duration = Duration::from_secs(20);
/// A proxy's answer to a CONNECT.
const MAX_ANSWER: usize = 16 << 10;

/// Where the servers are, and how to get there. Every connection may reach another of them.
pub struct Route {
    host: String,
    port: u16,
    proxy: Option<Proxy>,
    names: Names,
    control: ClientEndpoint,
    lane: ClientEndpoint,
}

/// Why no connection to a server came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no connection to {0} within {LIMIT:?}")]
    Timeout(String),
    #[error("cannot find {0}")]
    Name(#[from] crate::net::resolve::ResolveError),
    #[error("cannot connect to {address}: {source}")]
    Tcp { address: String, source: io::Error },
    #[error("the proxy {proxy} did not connect us: {why}")]
    Proxy { proxy: String, why: String },
    #[error(transparent)]
    Tls(#[from] HandshakeError),
}

impl Route {
    /// # Errors
    /// Certificates that cannot be used.
    pub fn new(
        options: &Options,
        names: Names,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Arc<Route>, TlsError> {
        let identity = match (options.agent_cert.as_str(), options.agent_key.as_str()) {
            ("", _) | (_, "") => None,
            (cert, key) => Some((cert.into(), key.into())),
        };
        let tls = |ours: &[&[u8]]| {
            let alpn = alpn_list(&options.alpn_proto, ours);
            ClientTls { ca: options.ca_cert.clone().into(), identity: identity.clone(), alpn }.watch()
        };
        let (host, port) = (options.proxy_server_host.clone(), options.proxy_server_port);
        let proxy = Proxy::for_host(&host, port, env);
        if let Some(proxy) = &proxy {
            tracing::info!(proxy = proxy.address(), "Servers are reached through a proxy");
        }
        let (control, lane) = (tls(&[ALPN_H2])?, tls(&[ALPN_LANE])?);
        Ok(Arc::new(Route { host, port, proxy, names, control, lane }))
    }

    /// `host:port` of the servers.
    pub fn address(&self) -> String {
        if self.host.contains(':') && !self.host.starts_with('[') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// A connection for a control stream.
    ///
    /// # Errors
    /// What failed first.
    pub async fn control(&self) -> Result<TlsStream<TcpStream>, ConnectError> {
        let stream = self.within(async { Ok(self.tls(&self.control, self.tcp().await?).await?) }).await?;
        match stream.get_ref().1.alpn_protocol() {
            Some(_) => Ok(stream),
            None => Err(HandshakeError::NoAlpn.into()),
        }
    }

    async fn tls<S>(&self, endpoint: &ClientEndpoint, stream: S) -> Result<TlsStream<S>, HandshakeError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        endpoint.connect(&self.host, stream, LIMIT).await
    }

    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| Err(ConnectError::Timeout(self.address())))
    }

    async fn tcp(&self) -> Result<TcpStream, ConnectError> {
        let Some(proxy) = &self.proxy else { return self.direct(&self.host, self.port).await };
        let mut stream = self.direct(&proxy.host, proxy.port).await?;
        let failed = |why: String| ConnectError::Proxy { proxy: proxy.address(), why };
        let head = proxy.connect_head(&self.address());
        stream.write_all(head.as_bytes()).await.map_err(|error| failed(error.to_string()))?;
        read_answer(&mut stream).await.map_err(failed)?;
        Ok(stream)
    }

    async fn direct(&self, host: &str, port: u16) -> Result<TcpStream, ConnectError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let addresses = self.names.addresses(bare, port).await?;
        let stream = connect(addresses).await.map_err(|refused| ConnectError::Tcp {
            address: refused.address.to_string(),
            source: refused.source,
        })?;
        stream.ok_or_else(|| ConnectError::Tcp {
            address: host.to_owned(),
            source: io::ErrorKind::AddrNotAvailable.into(),
        })
    }
}

/// Reads a proxy's head byte by byte, for what follows it belongs to TLS.
async fn read_answer(stream: &mut TcpStream) -> Result<(), String> {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == MAX_ANSWER {
            return Err("its answer has no end".into());
        }
        answer.push(stream.read_u8().await.map_err(|error| error.to_string())?);
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(&answer) {
        Ok(_) if response.code.is_some_and(|code| (200..300).contains(&code)) => Ok(()),
        Ok(_) => Err(format!("it answered {} {}", response.code.unwrap_or(0), response.reason.unwrap_or(""))),
        Err(error) => Err(error.to_string()),
    }
}

impl LaneRoute for Route {
    fn connect(&self) -> BoxFuture<'_, Result<TlsStream<RecordExact<TcpStream>>, RouteError>> {
        Box::pin(async {
            let connected =
                self.within(async { Ok(self.tls(&self.lane, RecordExact::new(self.tcp().await?)).await?) });
            let stream = connected.await.map_err(|error| match error {
                ConnectError::Tls(error) if error.is_no_application_protocol() => RouteError::NoLanes,
                error => RouteError::Failed(error.to_string()),
            })?;
            match stream.get_ref().1.alpn_protocol() {
                Some(ALPN_LANE) => Ok(stream),
                _ => Err(RouteError::NoLanes),
            }
        })
    }
}
