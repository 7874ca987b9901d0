//! Whose a token is.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube_client::Api;
use kube_client::api::PostParams;

use super::{Kube, KubeError};
use crate::wire::metadata::Secret;

/// An agent of ours gives a server up that does not answer it within 20 s.
const LIMIT: Duration = Duration::from_secs(15);

impl Kube {
    /// Asks the API server whose `token` is; `audience` is who it must be meant for.
    ///
    /// # Errors
    /// The API server did not say.
    pub async fn review(&self, token: &Secret, audience: &str) -> Result<TokenReviewStatus, KubeError> {
        let spec =
            TokenReviewSpec { audiences: Some(vec![audience.to_owned()]), token: Some(token.0.clone()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let ask = async |client| {
            let reviews: Api<TokenReview> = Api::all(client);
            reviews.create(&PostParams::default(), &review).await
        };
        Ok(self.ask(LIMIT, ask).await?.status.unwrap_or_default())
    }
}
