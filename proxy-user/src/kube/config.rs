//! A kubeconfig's current context as what the client needs. The library's function for this reads NO_PROXY too, by
//! rules of its own, and refuses what client-go takes, such as an empty entry. So the environment is left out here.

use http::Uri;
use kube_client::Config;
use kube_client::config::{ExecAuthCluster, Kubeconfig, KubeconfigError};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};

use crate::ops::log::with_causes;

/// The client's configuration without a proxy, and the proxy that the cluster's entry names.
///
/// # Errors
/// What is missing or cannot be read.
pub(super) fn of_current_context(kubeconfig: Kubeconfig) -> Result<(Config, Option<String>), String> {
    use KubeconfigError::{
        CurrentContextNotSet, LoadClusterOfContext, LoadContext, MissingClusterUrl, ParseClusterUrl,
    };
    let Kubeconfig { contexts, clusters, auth_infos, current_context, .. } = kubeconfig;
    let current = current_context.ok_or_else(|| said(CurrentContextNotSet))?;
    let context = contexts.into_iter().find(|context| context.name == current);
    let context = context.and_then(|named| named.context).ok_or_else(|| said(LoadContext(current)))?;
    let cluster = clusters.into_iter().find(|cluster| cluster.name == context.cluster);
    let cluster = cluster.and_then(|named| named.cluster);
    let cluster = cluster.ok_or_else(|| said(LoadClusterOfContext(context.cluster)))?;
    let server = cluster.server.as_deref().ok_or_else(|| said(MissingClusterUrl))?;
    let mut config = Config::new(server.parse::<Uri>().map_err(|error| said(ParseClusterUrl(error)))?);
    // What exec plugins are told of a cluster has its authority as PEM, wherever that was.
    let told = ExecAuthCluster::try_from(&cluster).map_err(said)?;
    config.root_cert = told.certificate_authority_data.as_deref().map(certificates).transpose()?;
    if let Some(namespace) = context.namespace {
        config.default_namespace = namespace;
    }
    config.accept_invalid_certs = cluster.insecure_skip_tls_verify.unwrap_or(false);
    config.disable_compression = cluster.disable_compression.unwrap_or(false);
    config.tls_server_name = cluster.tls_server_name;
    // As client-go: a user that is missing is nobody.
    let user = auth_infos.into_iter().find(|user| Some(&user.name) == context.user.as_ref());
    config.auth_info = user.and_then(|named| named.auth_info).unwrap_or_default();
    if let Some(exec) = config.auth_info.exec.as_mut().filter(|exec| exec.provide_cluster_info) {
        exec.cluster = Some(told);
    }
    Ok((config, cluster.proxy_url.filter(|url| !url.is_empty())))
}

fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let found: Result<Vec<_>, pem::Error> =
        CertificateDer::pem_slice_iter(pem).map(|der| Ok(der?.to_vec())).collect();
    match found {
        Ok(found) if found.is_empty() => Err("its certificate authority holds no certificate".into()),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("its certificate authority is no PEM: {error}")),
    }
}

fn said(error: KubeconfigError) -> String {
    with_causes(&error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "{ current-context: b, contexts: [{ name: a, context: { cluster: one }}, \
        { name: b, context: { cluster: two, user: u, namespace: n }}], clusters: [{ name: one, cluster: { server: \
        'https://one', proxy-url: 'http://one' }}, { name: two, cluster: { server: 'https://two:6443', proxy-url: \
        'http://two', tls-server-name: name, insecure-skip-tls-verify: true }}], users: [{ name: u, user: { token: t, \
        exec: { command: plugin, provideClusterInfo: true }}}]}";

    fn of(text: &str) -> Result<(Config, Option<String>), String> {
        of_current_context(Kubeconfig::from_yaml(text).unwrap())
    }

    #[test]
    fn everything_is_the_current_contexts() {
        let (config, proxy) = of(TEXT).unwrap();
        assert_eq!(proxy.as_deref(), Some("http://two"));
        assert_eq!(config.cluster_url.to_string(), "https://two:6443/");
        assert_eq!((&*config.default_namespace, config.accept_invalid_certs), ("n", true));
        assert_eq!(config.tls_server_name.as_deref(), Some("name"));
        assert!(config.root_cert.is_none() && config.auth_info.token.is_some());
        let told = config.auth_info.exec.unwrap().cluster.unwrap();
        assert_eq!(told.server.as_deref(), Some("https://two:6443"));
    }

    #[test]
    fn what_is_missing_is_said_in_the_librarys_words() {
        for (from, to, said) in [
            ("current-context: b", "x: b", "failed to determine current context"),
            ("current-context: b", "current-context: c", "failed to load current context: c"),
            ("cluster: two,", "cluster: three,", "failed to load the cluster of context: three"),
            ("server: 'https://two:6443',", "", "cluster url is missing on selected cluster"),
            ("server: 'https://two:6443'", "server: 'https://a b'", "failed to parse cluster url"),
            (
                "tls-server-name: name",
                "certificate-authority: /nowhere",
                "failed to load certificate authority",
            ),
            (
                "tls-server-name: name",
                "certificate-authority-data: '*'",
                "failed to load certificate authority",
            ),
            // `nothing` in base64.
            (
                "tls-server-name: name",
                "certificate-authority-data: 'bm90aGluZw=='",
                "its certificate authority holds no certificate",
            ),
        ] {
            assert!(TEXT.contains(from), "{from}");
            let error = of(&TEXT.replace(from, to)).err().unwrap_or_default();
            assert!(error.contains(said), "{to}: {error}");
        }
        let (config, _) = of(&TEXT.replace("user: u,", "user: nobody,")).unwrap();
        assert!(config.auth_info.token.is_none());
    }
}
