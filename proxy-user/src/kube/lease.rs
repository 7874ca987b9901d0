//! Leases: the servers that there are, each for as long as it renews its own.

use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube_client::Api;
use kube_client::api::{
    DeleteParams, ListParams, ObjectList, PostParams, Preconditions, WatchEvent, WatchParams,
};

use super::{Kube, KubeError};

/// Far below a lease's 30 s, far above what a busy API server takes.
const LIMIT: Duration = Duration::from_secs(10);

/// The leases of one namespace, or of all, which can only be listed and watched.
#[derive(Clone)]
pub struct Leases {
    kube: Kube,
    /// Empty: all.
    namespace: String,
}

/// When a lease stops to count. `None`: it never counted, since it was neither taken nor renewed or has no duration.
pub fn expiry(lease: &Lease) -> Option<Timestamp> {
    let spec = lease.spec.as_ref()?;
    let taken = spec.renew_time.as_ref().or(spec.acquire_time.as_ref())?;
    taken.0.checked_add(SignedDuration::from_secs(spec.lease_duration_seconds?.into())).ok()
}

pub fn is_valid(lease: &Lease, now: Timestamp) -> bool {
    expiry(lease).is_some_and(|expiry| expiry > now)
}

/// # Errors
/// All methods: the API server did not do it, or not in time.
impl Leases {
    pub fn new(kube: &Kube, namespace: &str) -> Leases {
        Leases { kube: kube.clone(), namespace: namespace.to_owned() }
    }

    pub async fn get(&self, name: &str) -> Result<Lease, KubeError> {
        self.kube.ask(LIMIT, async |client| self.api(client).get(name).await).await
    }

    pub async fn create(&self, lease: &Lease) -> Result<Lease, KubeError> {
        let params = PostParams::default();
        self.kube.ask(LIMIT, async |client| self.api(client).create(&params, lease).await).await
    }

    /// Fails with 409 when somebody else changed it since `lease` was read.
    pub async fn replace(&self, name: &str, lease: &Lease) -> Result<Lease, KubeError> {
        let params = PostParams::default();
        self.kube.ask(LIMIT, async |client| self.api(client).replace(name, &params, lease).await).await
    }

    /// With a version: only if nobody has changed it since.
    pub async fn delete(&self, name: &str, version: Option<String>) -> Result<(), KubeError> {
        let preconditions =
            version.map(|version| Preconditions { resource_version: Some(version), uid: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        let deleted = self.kube.ask(LIMIT, async |client| self.api(client).delete(name, &params).await);
        deleted.await.map(drop)
    }

    /// An empty selector selects all.
    pub async fn list(&self, selector: &str) -> Result<ObjectList<Lease>, KubeError> {
        let params = ListParams { label_selector: some(selector), ..ListParams::default() };
        self.kube.ask(LIMIT, async |client| self.api(client).list(&params).await).await
    }

    /// What happens to leases after `version`, for some minutes.
    pub async fn watch(
        &self,
        selector: &str,
        version: &str,
    ) -> Result<BoxStream<'static, Result<WatchEvent<Lease>, KubeError>>, KubeError> {
        let params = WatchParams { label_selector: some(selector), ..WatchParams::default() };
        let watch = async |client| Ok(self.api(client).watch(&params, version).await?.boxed());
        Ok(self.kube.ask(LIMIT, watch).await?.map_err(KubeError::from).boxed())
    }

    fn api(&self, client: kube_client::Client) -> Api<Lease> {
        match self.namespace.as_str() {
            "" => Api::all(client),
            namespace => Api::namespaced(client, namespace),
        }
    }
}

fn some(selector: &str) -> Option<String> {
    (!selector.is_empty()).then(|| selector.to_owned())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;

    #[test]
    fn a_lease_counts_while_it_is_young() {
        let now = Timestamp::now();
        let ago = |seconds| Some(MicroTime(now - SignedDuration::from_secs(seconds)));
        let lease = |renew_time, acquire_time, lease_duration_seconds| Lease {
            spec: Some(LeaseSpec {
                renew_time,
                acquire_time,
                lease_duration_seconds,
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        };
        for (lease, valid) in [
            (lease(ago(29), None, Some(30)), true),
            (lease(ago(30), None, Some(30)), false),
            (lease(ago(31), ago(0), Some(30)), false),
            (lease(None, ago(29), Some(30)), true),
            (lease(None, None, Some(30)), false),
            (lease(ago(0), None, None), false),
            (Lease::default(), false),
        ] {
            assert_eq!(is_valid(&lease, now), valid, "{lease:?}");
        }
    }
}
