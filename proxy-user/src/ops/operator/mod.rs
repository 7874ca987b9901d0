//! The operator socket: `flows`, `doctor` and `set` over a Unix socket that only the process's own user may open.

mod client;
mod table;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::StatusCode;

pub use client::ask;

use super::http::{Ask, Page, Pages, serve};
use super::settings::Live;
use crate::flow::FlowTable;
use crate::net::listener::ListenError;
use crate::net::uds::UdsListener;

/// Only the owner may connect.
const MODE: u32 = 0o600;

/// What the operator socket answers from.
pub struct Desk {
    pub flows: FlowTable,
    pub live: Live,
    /// The doctor's report, made when it is asked for.
    pub doctor: Box<dyn Fn() -> String + Send + Sync>,
}

impl Desk {
    fn set(&self, ask: &Ask) -> Page {
        let words = ask.queries().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
        if let Err(error) = self.live.set(words.iter().map(String::as_str)) {
            return Page::text(StatusCode::BAD_REQUEST, format!("{error}\n"));
        }
        Page::text(StatusCode::OK, format!("In force: {}\n", self.live))
    }
}

impl Pages for Desk {
    async fn answer(&self, ask: Ask) -> Page {
        match ask.uri.path() {
            "/flows" => Page::text(StatusCode::OK, table::render(&self.flows.live())),
            "/doctor" => Page::text(StatusCode::OK, (self.doctor)()),
            "/set" => self.set(&ask),
            _ => Page::not_found(),
        }
    }
}

/// The operator socket cannot be had; the process runs without it.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    #[error("another running process answers on {0:?}; give each process its own --operator-socket")]
    InUse(PathBuf),
    #[error("cannot make the directory {path:?}: {source}; create it or choose another --operator-socket")]
    Directory { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// A bound operator socket.
#[derive(Debug)]
pub struct OperatorSocket(UdsListener);

impl OperatorSocket {
    /// Binds `path` with mode 0600, making its directory where that is missing. A socket that nobody answers on
    /// any more is replaced. Must be called inside a tokio runtime.
    pub fn bind(path: &Path) -> Result<OperatorSocket, OperatorError> {
        if UnixStream::connect(path).is_ok() {
            return Err(OperatorError::InUse(path.to_owned()));
        }
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)
                .map_err(|source| OperatorError::Directory { path: parent.to_owned(), source })?;
        }
        Ok(OperatorSocket(UdsListener::bind_with_mode(path, true, MODE)?))
    }

    /// Answers until dropped; `room` and `refused` as in [`serve`].
    pub async fn serve(
        self,
        desk: Desk,
        room: usize,
        refused: impl Fn(&'static str) + Clone + Send + Sync + 'static,
    ) {
        let accept = || async { self.0.accept().await.stream };
        serve(accept, Arc::new(desk), room, refused).await;
    }
}

#[cfg(test)]
mod tests;
