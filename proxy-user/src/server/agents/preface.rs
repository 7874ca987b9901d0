//! The first words of a control stream, read before anybody is given the connection.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::wire::authority::PREFACE;

/// A connection that is no control stream.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoHttp2 {
    #[error("it sends something else than HTTP/2")]
    Other,
    #[error("no HTTP/2 within {0:?}")]
    Silent(Duration),
    #[error(transparent)]
    Lost(#[from] io::Error),
}

/// Reads the words that every HTTP/2 client begins with, and nothing behind them.
pub(super) async fn hear(stream: &mut (impl AsyncRead + Unpin), within: Duration) -> Result<(), NoHttp2> {
    tokio::time::timeout(within, read(stream)).await.map_err(|_| NoHttp2::Silent(within))?
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<(), NoHttp2> {
    let mut heard = [0; PREFACE.len()];
    let mut have = 0;
    // What is wrong from its first byte on may never be as long as the preface.
    while have < heard.len() {
        have += match stream.read(&mut heard[have..]).await? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            read => read,
        };
        if heard[..have] != PREFACE[..have] {
            return Err(NoHttp2::Other);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn what_follows_the_preface_stays() {
        let (mut near, mut far) = tokio::io::duplex(100);
        let all = [PREFACE.as_slice(), b"SETTINGS"].concat();
        let saying = async {
            for byte in all.chunks(5) {
                near.write_all(byte).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (heard, ()) = tokio::join!(hear(&mut far, WITHIN), saying);
        heard.unwrap();
        let mut rest = [0; 8];
        far.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"SETTINGS");
    }

    #[tokio::test]
    async fn other_words_are_not_waited_out() {
        for words in [b"\0".as_slice(), b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/1.1\r\n\r\n"] {
            let (mut near, mut far) = tokio::io::duplex(100);
            near.write_all(words).await.unwrap();
            let heard = tokio::time::timeout(WITHIN / 4, hear(&mut far, WITHIN)).await.unwrap();
            assert!(matches!(heard, Err(NoHttp2::Other)), "{words:?}: {heard:?}");
        }
    }

    /// Nothing, or a part of the words and no more.
    #[tokio::test]
    async fn silence_is_waited_out_once() {
        const SHORT: Duration = Duration::from_millis(50);
        for words in [b"".as_slice(), &PREFACE[..20]] {
            let (mut near, mut far) = tokio::io::duplex(100);
            near.write_all(words).await.unwrap();
            let began = std::time::Instant::now();
            let heard = hear(&mut far, SHORT).await;
            assert!(matches!(heard, Err(NoHttp2::Silent(_))), "{heard:?}");
            assert!(began.elapsed() >= SHORT);
        }
        let (near, mut far) = tokio::io::duplex(100);
        drop(near);
        assert!(matches!(hear(&mut far, WITHIN).await, Err(NoHttp2::Lost(_))));
    }
}
