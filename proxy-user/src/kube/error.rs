//! Why the API server did not do what it was asked.

use std::time::Duration;

use kube_client::Error as ClientError;

use crate::ops::log::with_causes;

/// One request's failure, or why none could be made.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    #[error("the kubeconfig {path} cannot be used: {why}")]
    Kubeconfig { path: String, why: String },
    #[error("no kubeconfig is named, and this is no pod that may use the Kubernetes API: {0}")]
    Nowhere(String),
    #[error("the Kubernetes API cannot be used as this pod's service account: {0}")]
    InCluster(String),
    #[error("the Kubernetes API server refused with {code} ({reason}): {message}")]
    Refused { code: u16, reason: String, message: String },
    #[error("the Kubernetes API server cannot be reached: {0}")]
    Unreachable(String),
    #[error("the Kubernetes API server did not answer within {0:?}")]
    Silent(Duration),
    #[error("the Kubernetes API server's answer makes no sense: {0}")]
    Answer(String),
}

impl KubeError {
    /// HTTP status and machine-readable reason, where the API server gave them.
    pub fn status(&self) -> Option<(u16, &str)> {
        match self {
            KubeError::Refused { code, reason, .. } => Some((*code, reason)),
            _ => None,
        }
    }

    pub fn is(&self, status: u16) -> bool {
        self.status().is_some_and(|(code, _)| code == status)
    }

    /// Other credentials, another address or another authority might help.
    pub(super) fn may_be_outdated(&self) -> bool {
        matches!(self, KubeError::Unreachable(_) | KubeError::Silent(_)) || self.is(401)
    }
}

impl From<ClientError> for KubeError {
    fn from(error: ClientError) -> KubeError {
        match error {
            ClientError::Api(status) => KubeError::Refused {
                code: status.code,
                reason: status.reason.clone(),
                message: status.message.clone(),
            },
            ClientError::Service(error) => KubeError::Unreachable(with_causes(&*error)),
            ClientError::SerdeError(_) | ClientError::FromUtf8(_) => KubeError::Answer(with_causes(&error)),
            _ => KubeError::Unreachable(with_causes(&error)),
        }
    }
}
