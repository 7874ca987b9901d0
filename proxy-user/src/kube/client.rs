//! One client for all requests: paced, bounded in time, made anew when its files may have changed.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube_client::config::{InClusterError, Kubeconfig};
use kube_client::{Client, Config};
use tokio::sync::Mutex;

use super::error::KubeError;
use super::{config, proxy};
use crate::flow::Pace;
use crate::ops::log::with_causes;

/// A failed client is made anew at most this often.
const RENEWAL: Duration = Duration::from_secs(5);
/// client-go's defaults, in requests a second and requests at once.
const PACE: (f32, i32) = (5.0, 10);

/// How to reach the API server, as the flags say it.
#[derive(Debug, Clone, Default)]
pub struct KubeConfig {
    /// Empty = the service account of the pod this runs in.
    pub kubeconfig: String,
    /// Requests a second; 0 = 5.
    pub qps: f32,
    /// Requests at once; 0 = 10.
    pub burst: i32,
}

/// The API server. Cheap to clone; made without asking it anything.
#[derive(Clone)]
pub struct Kube(Arc<Shared>);

struct Shared {
    /// `None`: in-cluster.
    kubeconfig: Option<PathBuf>,
    /// `None`: as many as are asked for.
    pace: Option<Mutex<Pace>>,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    client: Option<Client>,
    at: Option<Instant>,
    outdated: bool,
}

impl Kube {
    pub fn new(config: &KubeConfig) -> Kube {
        let kubeconfig = (!config.kubeconfig.is_empty()).then(|| PathBuf::from(&config.kubeconfig));
        let qps = if config.qps == 0.0 { PACE.0 } else { config.qps };
        let burst = if config.burst == 0 { PACE.1 } else { config.burst };
        // As client-go: a negative rate is no bound.
        let pace =
            (qps > 0.0).then(|| Mutex::new(Pace::new(burst.max(1).unsigned_abs(), qps, Instant::now())));
        Kube(Arc::new(Shared { kubeconfig, pace, loaded: Mutex::default() }))
    }

    /// Reads kubeconfig or service account; the API server itself is not asked. Needs a tokio runtime.
    ///
    /// # Errors
    /// What keeps every request from being made.
    pub async fn check(&self) -> Result<(), KubeError> {
        self.client().await.map(drop)
    }

    /// One request, within `limit`, the wait for its turn included.
    pub(super) async fn ask<T, A>(&self, limit: Duration, ask: A) -> Result<T, KubeError>
    where
        A: AsyncFnOnce(Client) -> kube_client::Result<T>,
    {
        let asked = tokio::time::timeout(limit, async {
            self.turn().await;
            let client = self.client().await?;
            Ok(ask(client).await?)
        });
        let result = asked.await.unwrap_or(Err(KubeError::Silent(limit)));
        if result.as_ref().is_err_and(KubeError::may_be_outdated) {
            self.0.loaded.lock().await.outdated = true;
        }
        result
    }

    /// First come, first served: whoever is next holds the lock while it waits.
    async fn turn(&self) {
        let Some(pace) = &self.0.pace else { return };
        let mut pace = pace.lock().await;
        while !pace.take(Instant::now()) {
            tokio::time::sleep(pace.pause()).await;
        }
    }

    /// Tokens in files are read anew by the client itself; whatever else is named by the kubeconfig is read again
    /// when requests fail as they do with old credentials or an old address.
    async fn client(&self) -> Result<Client, KubeError> {
        let mut loaded = self.0.loaded.lock().await;
        let due = loaded.at.is_none_or(|at| at.elapsed() >= RENEWAL);
        if let Some(client) = loaded.client.clone().filter(|_| !loaded.outdated || !due) {
            return Ok(client);
        }
        let made = load(self.0.kubeconfig.as_deref()).await;
        loaded.at = Some(Instant::now());
        match (made, &loaded.client) {
            (Ok(client), _) => {
                loaded.outdated = false;
                loaded.client = Some(client.clone());
                Ok(client)
            }
            (Err(error), Some(old)) => {
                tracing::warn!(%error, "Going on with what was read before");
                Ok(old.clone())
            }
            (Err(error), None) => Err(error),
        }
    }
}

async fn load(kubeconfig: Option<&Path>) -> Result<Client, KubeError> {
    let Some(path) = kubeconfig else {
        let config = Config::incluster().map_err(|error| outside(&error))?;
        return connect(config, None).map_err(KubeError::InCluster);
    };
    let wrong = |why| KubeError::Kubeconfig { path: path.display().to_string(), why };
    let read = Kubeconfig::read_from(path).map_err(|error| wrong(with_causes(&error)))?;
    let (config, proxy) = config::of_current_context(read).map_err(wrong)?;
    connect(config, proxy).map_err(wrong)
}

/// What only a pod has, and only one with a service account, is there when it starts or never.
fn outside(error: &InClusterError) -> KubeError {
    use InClusterError::{ReadCertificateBundle, ReadDefaultNamespace, ReadEnvironmentVariable};
    match error {
        ReadEnvironmentVariable(_) => KubeError::Nowhere(with_causes(error)),
        ReadDefaultNamespace(why) | ReadCertificateBundle(why) if why.kind() == ErrorKind::NotFound => {
            KubeError::Nowhere(with_causes(error))
        }
        _ => KubeError::InCluster(with_causes(error)),
    }
}

fn connect(mut config: Config, proxy_of_cluster: Option<String>) -> Result<Client, String> {
    // Every request of ours has a limit of its own, and who asks again is known there.
    config.default_retry = false;
    config.proxy_url =
        proxy::on_the_way(&config.cluster_url, proxy_of_cluster, |name| std::env::var(name).ok())?;
    Client::try_from(config).map_err(|error| with_causes(&error))
}
