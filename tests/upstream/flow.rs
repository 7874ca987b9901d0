//! A client's flow through either frontend.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use proxy_tests::calls::{Call, Client};
use proxy_tests::konduit::Frontend;
use proxy_tests::runner::SOON;
use proxy_user::wire::ids::{ConnId, DialId};
use proxy_user::wire::packet::{Answer, DialRequest, DialResponse, Packet};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const CHUNK: usize = 32 << 10;

/// The next dial's id.
static DIAL: AtomicI64 = AtomicI64::new(1);

pub(crate) enum Flow {
    Connect(UnixStream),
    Grpc(Call, ConnId),
}

/// A dial that nobody has answered yet.
pub(crate) enum Dialling {
    Connect(UnixStream),
    Grpc(Call, DialId),
}

impl Dialling {
    pub(crate) async fn begin(frontend: Frontend, socket: &Path, target: &str) -> anyhow::Result<Dialling> {
        let mut stream = UnixStream::connect(socket).await?;
        Ok(match frontend {
            Frontend::Connect => {
                let head = format!("CONNECT {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                Dialling::Connect(stream)
            }
            Frontend::Grpc => {
                let dial = DialId(DIAL.fetch_add(1, Ordering::Relaxed));
                let mut call = Client::new(stream).await.call("/ProxyService/Proxy", &[]).await;
                call.say(Packet::DialRequest(DialRequest {
                    dial,
                    protocol: "tcp".into(),
                    address: target.into(),
                    lane_dial: 0,
                }));
                Dialling::Grpc(call, dial)
            }
        })
    }

    /// Gives up as kube-apiserver does: DIAL_CLS where there is such a thing, then the connection is closed.
    pub(crate) async fn cancel(self) {
        if let Dialling::Grpc(mut call, dial) = self {
            call.say(Packet::CloseDial { dial });
            // It has to be on its way before the connection goes.
            tokio::task::yield_now().await;
        }
    }

    /// # Errors
    /// What the client was told.
    pub(crate) async fn answered(self) -> anyhow::Result<Flow> {
        match self {
            Dialling::Connect(mut stream) => {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let byte = tokio::time::timeout(SOON, stream.read_u8()).await;
                    head.push(byte.context("no answer to a CONNECT")??);
                }
                if head == b"HTTP/1.1 200 Connection Established\r\n\r\n" {
                    return Ok(Flow::Connect(stream));
                }
                let rest = tokio::time::timeout(SOON, stream.read_to_end(&mut head)).await;
                let end = if rest.is_err() { " and then silence" } else { "" };
                bail!("{}{end}", String::from_utf8_lossy(&head))
            }
            Dialling::Grpc(mut call, _) => match call.hear().await {
                Some(Packet::DialResponse(DialResponse { outcome: Ok(Answer::Here(conn)), .. })) => {
                    Ok(Flow::Grpc(call, conn))
                }
                Some(Packet::DialResponse(DialResponse { outcome: Err(error), .. })) => {
                    bail!("{}", error.text)
                }
                other => bail!("an answer to a dial: {other:?}"),
            },
        }
    }
}

impl Flow {
    /// Sends bytes to an echo and reads them back, all of them compared.
    pub(crate) async fn exchange(&mut self, length: usize, seed: u64) -> anyhow::Result<()> {
        let sent = pattern(length, seed);
        let mut got = Vec::with_capacity(length);
        match self {
            Flow::Connect(stream) => {
                let (read, mut write) = stream.split();
                let mut read = read.take(length as u64);
                let all =
                    async { tokio::try_join!(write.write_all(&sent), read.read_to_end(&mut got)).map(drop) };
                all.await?;
            }
            Flow::Grpc(call, conn) => {
                for start in (0..length).step_by(CHUNK) {
                    let data = sent.slice(start..length.min(start + CHUNK));
                    call.say(Packet::Data { conn: *conn, data });
                }
                while got.len() < length {
                    match call.hear().await {
                        Some(Packet::Data { conn: of, data }) if of == *conn => got.extend_from_slice(&data),
                        other => bail!("{other:?} after {} of {length} bytes", got.len()),
                    }
                }
            }
        }
        ensure!(got.len() == length, "{} of {length} bytes came back", got.len());
        ensure!(got == sent, "{length} bytes came back changed");
        Ok(())
    }

    /// What comes, as bytes; nothing is taken that is not read.
    pub(crate) fn into_reader(self) -> Box<dyn AsyncRead + Send + Unpin> {
        match self {
            Flow::Connect(stream) => Box::new(stream),
            Flow::Grpc(mut call, _) => {
                let (mut to, from) = tokio::io::duplex(CHUNK);
                tokio::spawn(async move {
                    while let Some(Packet::Data { data, .. }) = call.hear().await {
                        if to.write_all(&data).await.is_err() {
                            break;
                        }
                    }
                });
                Box::new(from)
            }
        }
    }

    /// As soon as there is room for it.
    pub(crate) async fn write(&mut self, data: Bytes) -> anyhow::Result<()> {
        match self {
            Flow::Connect(stream) => stream.write_all(&data).await?,
            Flow::Grpc(call, conn) => {
                for start in (0..data.len()).step_by(CHUNK) {
                    let data = data.slice(start..data.len().min(start + CHUNK));
                    call.room(data.len() + 64).await?;
                    call.say(Packet::Data { conn: *conn, data });
                }
            }
        }
        Ok(())
    }

    /// What comes next.
    pub(crate) async fn hear(&mut self) -> anyhow::Result<Bytes> {
        match self {
            Flow::Connect(stream) => {
                let mut got = vec![0; CHUNK];
                let read = stream.read(&mut got).await?;
                got.truncate(read);
                Ok(got.into())
            }
            Flow::Grpc(call, _) => match call.hear().await {
                Some(Packet::Data { data, .. }) => Ok(data),
                other => bail!("{other:?} instead of bytes"),
            },
        }
    }

    /// As [`Flow::ended`], where whoever ends it lives to say so.
    pub(crate) async fn told_of_its_end(mut self) -> anyhow::Result<()> {
        if let Flow::Grpc(call, conn) = &mut self {
            let told = call.hear().await;
            ensure!(told == Some(Packet::CloseResponse { conn: *conn, error: String::new() }), "{told:?}");
            ensure!(call.status().await.0 == "0", "the call did not end in order");
            return Ok(());
        }
        self.ended().await
    }

    /// Until the other side has ended it, which a gRPC client is told without an error unless its server was killed.
    pub(crate) async fn ended(self) -> anyhow::Result<()> {
        match self {
            Flow::Connect(mut stream) => {
                // An end or an abort.
                let mut rest = Vec::new();
                let read = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await;
                drop(read.context("the flow goes on")?);
            }
            Flow::Grpc(mut call, conn) => match call.hear().await {
                None => {}
                Some(Packet::CloseResponse { conn: of, error }) if of == conn && error.is_empty() => {}
                other => bail!("{other:?} instead of an end"),
            },
        }
        Ok(())
    }
}

fn pattern(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}
