//! Agents that show a service account token: the API server says whose it is. Upstream's conditions and words.

use http::header::{AUTHORIZATION, HeaderMap};
use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use tonic::Status;

use super::options::Options;
use crate::kube::{Kube, KubeError};
use crate::wire::metadata::Secret;

/// Lets agents of one service account pass.
#[derive(Clone)]
pub struct Authenticator {
    kube: Kube,
    audience: String,
    namespace: String,
    account: String,
}

/// Why an agent was not let in.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("Authentication context was not found in metadata: the agent needs --service-account-token-path")]
    NoToken,
    #[error("too many ({0}) tokens are received")]
    Many(usize),
    #[error("received token does not have \"Bearer \" prefix")]
    NotBearer,
    #[error("Failed to validate authentication token, err:Failed to authenticate request. err:{0}")]
    Unknown(#[from] KubeError),
    #[error("Failed to validate authentication token, err:lookup failed: {0}")]
    Refused(Refusal),
}

/// What is wrong with a token that the API server was asked about.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{0}")]
    Error(String),
    #[error("service account jwt not valid")]
    Invalid,
    #[error("the token is meant for {found:?}. Expected {expected:?}")]
    Audience { found: Vec<String>, expected: String },
    #[error("unexpected username format")]
    Username,
    #[error("username returned is not a service account")]
    NoServiceAccount,
    #[error("incoming request from {found:?} namespace. Expected {expected:?}")]
    Namespace { found: String, expected: String },
    #[error("incoming request from {found:?} service account. Expected {expected:?}")]
    Account { found: String, expected: String },
}

impl From<&AuthError> for Status {
    fn from(error: &AuthError) -> Status {
        match error {
            AuthError::Unknown(_) => Status::unavailable(error.to_string()),
            _ => Status::unauthenticated(error.to_string()),
        }
    }
}

impl Authenticator {
    pub fn new(options: &Options, kube: &Kube) -> Authenticator {
        Authenticator {
            kube: kube.clone(),
            audience: options.authentication_audience.clone(),
            namespace: options.agent_namespace.clone(),
            account: options.agent_service_account.clone(),
        }
    }

    /// # Errors
    /// Everything but the API server's word that the token is of the expected service account.
    pub async fn check(&self, headers: &HeaderMap) -> Result<(), AuthError> {
        let token = bearer(headers)?;
        let status = self.kube.review(&token, &self.audience).await?;
        self.judge(status).map_err(AuthError::Refused)
    }

    fn judge(&self, status: TokenReviewStatus) -> Result<(), Refusal> {
        if let Some(error) = status.error.filter(|error| !error.is_empty()) {
            return Err(Refusal::Error(error));
        }
        if status.authenticated != Some(true) {
            return Err(Refusal::Invalid);
        }
        // None at all: an authenticator that knows nothing of audiences, which upstream accepts.
        let audiences = status.audiences.unwrap_or_default();
        if !audiences.is_empty() && !audiences.contains(&self.audience) {
            return Err(Refusal::Audience { found: audiences, expected: self.audience.clone() });
        }
        let username = status.user.and_then(|user| user.username).unwrap_or_default();
        let parts: Vec<&str> = username.split(':').collect();
        let [system, kind, namespace, account] = parts[..] else { return Err(Refusal::Username) };
        if (system, kind) != ("system", "serviceaccount") {
            return Err(Refusal::NoServiceAccount);
        }
        if namespace != self.namespace {
            return Err(Refusal::Namespace { found: namespace.into(), expected: self.namespace.clone() });
        }
        if account != self.account {
            return Err(Refusal::Account { found: account.into(), expected: self.account.clone() });
        }
        Ok(())
    }
}

fn bearer(headers: &HeaderMap) -> Result<Secret, AuthError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(AuthError::NoToken)?;
    match values.count() {
        0 => {}
        more => return Err(AuthError::Many(more + 1)),
    }
    let token = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
    token.map(|token| Secret(token.to_owned())).ok_or(AuthError::NotBearer)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;
    use crate::kube::KubeConfig;

    fn authenticator() -> Authenticator {
        let options = Options {
            agent_namespace: "kube-system".into(),
            agent_service_account: "konnectivity-agent".into(),
            authentication_audience: "system:konnectivity-server".into(),
            ..Options::default()
        };
        Authenticator::new(&options, &Kube::new(&KubeConfig::default()))
    }

    fn of(username: &str) -> TokenReviewStatus {
        let user = UserInfo { username: Some(username.into()), ..UserInfo::default() };
        TokenReviewStatus { authenticated: Some(true), user: Some(user), ..TokenReviewStatus::default() }
    }

    #[test]
    fn only_the_expected_service_account_passes() {
        let judge = |username| authenticator().judge(of(username)).map_err(|refusal| refusal.to_string());
        assert_eq!(judge("system:serviceaccount:kube-system:konnectivity-agent"), Ok(()));
        for (username, words) in [
            ("", "unexpected username format"),
            ("system:serviceaccount:kube-system", "unexpected username format"),
            ("system:serviceaccount:kube-system:konnectivity-agent:x", "unexpected username format"),
            ("system:node:kube-system:konnectivity-agent", "username returned is not a service account"),
            (
                "system:serviceaccount:default:konnectivity-agent",
                "incoming request from \"default\" namespace. Expected \"kube-system\"",
            ),
            (
                "system:serviceaccount:kube-system:default",
                "incoming request from \"default\" service account. Expected \"konnectivity-agent\"",
            ),
        ] {
            assert_eq!(judge(username), Err(words.to_owned()), "{username}");
        }
    }

    #[test]
    fn a_name_alone_is_not_enough() {
        let good = "system:serviceaccount:kube-system:konnectivity-agent";
        let unsure = TokenReviewStatus { authenticated: None, ..of(good) };
        assert_eq!(authenticator().judge(unsure), Err(Refusal::Invalid));
        let wrong = TokenReviewStatus { error: Some("token expired".into()), ..of(good) };
        assert_eq!(authenticator().judge(wrong), Err(Refusal::Error("token expired".into())));
        let other = TokenReviewStatus { audiences: Some(vec!["api".into()]), ..of(good) };
        assert!(matches!(authenticator().judge(other), Err(Refusal::Audience { .. })));
        let ours = Some(vec!["x".into(), "system:konnectivity-server".into()]);
        assert_eq!(authenticator().judge(TokenReviewStatus { audiences: ours, ..of(good) }), Ok(()));
    }

    #[test]
    fn exactly_one_bearer_token_is_read() {
        let mut headers = HeaderMap::new();
        assert!(matches!(bearer(&headers), Err(AuthError::NoToken)));
        headers.append(AUTHORIZATION, "bearer x".parse().unwrap());
        assert!(matches!(bearer(&headers), Err(AuthError::NotBearer)));
        headers.append(AUTHORIZATION, "Bearer x".parse().unwrap());
        assert!(matches!(bearer(&headers), Err(AuthError::Many(2))));
        headers.remove(AUTHORIZATION);
        headers.append(AUTHORIZATION, "Bearer x.y".parse().unwrap());
        assert_eq!(bearer(&headers).unwrap().0, "x.y");
    }
}
