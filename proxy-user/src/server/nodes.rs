//! `nodeLocal`'s ranges from the Kubernetes API: lists the nodes and follows them. Nobody waits for it: what was known
//! last goes on, and without an API server agents' identifiers serve alone.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use kube_client::api::WatchEvent;

use super::agents::registry::Registry;
use super::lease::jitter;
use super::pick::nodes::Node;
use crate::kube::{Kube, KubeError};

/// API servers send a bookmark each minute: a watch that says nothing for this long is taken for dead.
const QUIET: Duration = Duration::from_secs(150);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// Keeps the registry's nodes as the Kubernetes API has them.
pub struct NodeWatch {
    kube: Kube,
    registry: Arc<Registry>,
    news: NodeNews,
}

/// How well the nodes are known. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct NodeNews(Arc<Mutex<News>>);

#[derive(Debug, Clone, Default)]
pub struct News {
    /// Without a kubeconfig, and outside of a pod that may ask: why nobody is asked.
    pub alone: Option<String>,
    follows: bool,
    /// The last word of the API server.
    pub heard: Option<SystemTime>,
    /// Why there is none at the moment.
    pub failing: Option<String>,
}

impl NodeNews {
    pub fn now(&self) -> News {
        self.lock().clone()
    }

    fn heard(&self) {
        self.lock().heard = Some(SystemTime::now());
    }

    /// Whether they are followed only from now on.
    fn follows(&self) -> bool {
        let mut news = self.lock();
        !std::mem::replace(&mut news.follows, true) | news.failing.take().is_some()
    }

    /// Whether this is another failure than the one before.
    fn fails(&self, why: &str) -> bool {
        let mut news = self.lock();
        news.failing.replace(why.to_owned()).is_none_or(|before| before != why)
    }

    fn lock(&self) -> MutexGuard<'_, News> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeWatch {
    pub fn new(kube: Kube, registry: Arc<Registry>) -> NodeWatch {
        NodeWatch { kube, registry, news: NodeNews::default() }
    }

    pub fn news(&self) -> &NodeNews {
        &self.news
    }

    /// Follows the nodes until dropped.
    pub async fn run(self) -> Infallible {
        if let Err(error @ KubeError::Nowhere(_)) = self.kube.check().await {
            tracing::info!(
                why = %error,
                "nodeLocal knows nodes by agents' --agent-identifiers alone; a --kubeconfig adds their Node objects"
            );
            self.news.lock().alone = Some(error.to_string());
            return std::future::pending().await;
        }
        tracing::info!("nodeLocal knows nodes by their Node objects and by agents' --agent-identifiers");
        let mut pause = FIRST_PAUSE;
        let mut version = None;
        loop {
            let began = Instant::now();
            match self.follow(&mut version).await {
                Ok(()) if began.elapsed() > FIRST_PAUSE => pause = FIRST_PAUSE,
                ended => {
                    if let Err(error) = &ended {
                        self.say(error);
                    }
                    tokio::time::sleep(jitter(pause)).await;
                    pause = (2 * pause).min(LAST_PAUSE);
                }
            }
        }
    }

    /// Lists all unless `version` is known, and follows what changes until the news end. `version` is then where to go
    /// on, or nothing when all are to be listed anew.
    async fn follow(&self, version: &mut Option<String>) -> Result<(), KubeError> {
        let from = match version {
            Some(version) => &*version,
            None => {
                let (nodes, listed) = self.kube.nodes(Node::of).await?;
                self.registry.set_nodes(nodes);
                self.news.heard();
                &*version.insert(listed)
            }
        };
        let mut events = match self.kube.watch_nodes(from).await {
            Ok(events) => events,
            Err(error) => {
                // Too old, most likely; an API server that is away will know it when it is back.
                if error.status().is_some() {
                    *version = None;
                }
                return Err(error);
            }
        };
        if self.news.follows() {
            let nodes = self.registry.known().nodes().len();
            tracing::info!(nodes, "Nodes are known by their Node objects");
        }
        while let Ok(Some(event)) = tokio::time::timeout(QUIET, events.next()).await {
            match event {
                Ok(WatchEvent::Added(node) | WatchEvent::Modified(node)) => {
                    *version = node.metadata.resource_version.clone();
                    if let Some(node) = Node::of(node) {
                        self.registry.put_node(node);
                    }
                }
                Ok(WatchEvent::Deleted(node)) => {
                    *version = node.metadata.resource_version;
                    self.registry.remove_node(&node.metadata.name.unwrap_or_default());
                }
                Ok(WatchEvent::Bookmark(bookmark)) => *version = Some(bookmark.metadata.resource_version),
                // Most likely the version is too old, or the connection broke: all are listed anew, which may fail.
                Ok(WatchEvent::Error(_)) | Err(_) => {
                    tracing::debug!(?event, "The watch of the nodes ended");
                    *version = None;
                    break;
                }
            }
            self.news.heard();
        }
        Ok(())
    }

    fn say(&self, error: &KubeError) {
        let nodes = self.registry.known().nodes().len();
        let next = match error.status() {
            Some((401 | 403, _)) => "let this server list and watch nodes (deploy/server/rbac.yaml)",
            _ => "see to the API server or to --kubeconfig",
        };
        if self.news.fails(&error.to_string()) {
            tracing::warn!(nodes, %error, next, "Cannot follow the Node objects; what is known of them goes on");
        } else {
            tracing::debug!(nodes, %error, "Still nothing new of the Node objects");
        }
    }
}
