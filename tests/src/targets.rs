//! Targets as tests need them: each accepts on a port of its own until dropped.

use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A listening target; every connection runs in a task of its own.
pub struct Target {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Target {
    pub async fn start<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> std::io::Result<Target>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Ok(Target { address, task })
    }

    /// Gives every byte back, then ends its side.
    pub async fn echo() -> std::io::Result<Target> {
        Target::start(|mut stream| async move {
            let (mut read, mut write) = stream.split();
            // The connection may be aborted on purpose.
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        })
        .await
    }

    /// `host:port`
    pub fn name(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.task.abort();
    }
}
