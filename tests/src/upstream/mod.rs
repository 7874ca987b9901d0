//! Peers that play upstream's proxy-server and proxy-agent, written from the contract and not from its source. They
//! do what upstream does where a peer can tell, defects included: an agent whose receive loop waits for one slow
//! target, no half-close, a cancelled dial that nobody forwards, connection ids looked up by the agent's name,
//! pending dials that nobody answers when their agent is gone, a process that dies of a packet without payload.
//!
//! Two defects are left out since they are races that a test cannot wait for: bytes ahead of the 200 line, and a
//! DIAL_CLS that is lost in front of a reset.

mod agent;
mod clients;
mod frontends;
mod seen;
mod server;
mod stream;
mod tunnel;

use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use agent::{AgentPlan, UpstreamAgent};
pub use seen::Seen;
pub use server::{ServerPlan, UpstreamServer};

/// The tasks of a peer, which end together, as a process's do.
#[derive(Clone, Default)]
struct Life {
    end: CancellationToken,
    tasks: TaskTracker,
}

impl Life {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let end = self.end.clone();
        self.tasks.spawn(async move {
            end.run_until_cancelled_owned(task).await;
        });
    }

    /// Ends every task at once and waits until its sockets are closed.
    async fn end(&self) {
        self.end.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
