//! Nodes: all there are, and what becomes of them.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Node;
use kube_client::Api;
use kube_client::api::{ListParams, WatchEvent, WatchParams};

use super::{Kube, KubeError};

/// For one page of a list, and for a watch to begin.
const LIMIT: Duration = Duration::from_secs(15);
/// Node objects have tens of kilobytes each.
const PAGE: u32 = 250;

/// # Errors
/// All methods: the API server did not do it, or not in time.
impl Kube {
    /// Every node, as `of` sees it, and the version from which to watch.
    pub async fn nodes<T>(&self, of: impl Fn(Node) -> Option<T>) -> Result<(Vec<T>, String), KubeError> {
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = self.ask(LIMIT, async |client| Api::<Node>::all(client).list(&params).await).await?;
            found.extend(page.items.into_iter().filter_map(&of));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) if !seen.insert(token.clone()) => {
                    return Err(KubeError::Answer("the list of Node objects goes round in a circle".into()));
                }
                Some(token) => params.continue_token = Some(token),
                None => return Ok((found, page.metadata.resource_version.unwrap_or_default())),
            }
        }
    }

    /// What happens to nodes after `version`, for some minutes.
    pub async fn watch_nodes(
        &self,
        version: &str,
    ) -> Result<BoxStream<'static, Result<WatchEvent<Node>, KubeError>>, KubeError> {
        let params = WatchParams::default();
        let watch = async |client| Ok(Api::<Node>::all(client).watch(&params, version).await?.boxed());
        Ok(self.ask(LIMIT, watch).await?.map_err(KubeError::from).boxed())
    }
}
