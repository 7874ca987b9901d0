//! What can fail before a flow is joined. A joined flow has no errors, it has an [`Ending`](crate::flow::Ending).

use std::io;

/// Why the engine could not start or be changed.
#[derive(Debug, thiserror::Error)]
pub enum SpliceError {
    #[error("no engine is called {0:?}: use auto, sockmap, splice or copy")]
    NoSuchEngine(String),
    #[error(
        "cannot make the epoll instance or eventfd of an engine thread: {0}; raise the file descriptor limit (ulimit -n)"
    )]
    Poll(#[source] io::Error),
    #[error("cannot start an engine thread: {0}; raise the limit of tasks (ulimit -u, pids.max)")]
    Thread(#[source] io::Error),
}
