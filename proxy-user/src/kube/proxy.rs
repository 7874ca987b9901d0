//! Which proxy requests to the API server go through, by the rules of client-go: the kubeconfig's `proxy-url` holds for
//! its cluster whatever the environment says; without one HTTPS_PROXY and NO_PROXY hold, in a pod too.

use http::Uri;

use crate::net::connect::proxy_for;

/// A proxy's URL. `variable` looks into the environment.
///
/// # Errors
/// What names a proxy, and is no URL.
pub(super) fn on_the_way(
    server: &Uri,
    of_cluster: Option<String>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Uri>, String> {
    let plain = server.scheme_str() == Some("http");
    let port = server.port_u16().unwrap_or(if plain { 80 } else { 443 });
    let names = if plain { ["HTTP_PROXY", "http_proxy"] } else { ["HTTPS_PROXY", "https_proxy"] };
    let named = of_cluster.or_else(|| proxy_for(server.host().unwrap_or_default(), port, names, variable));
    let Some(named) = named else { return Ok(None) };
    // As Go: without a scheme it is an HTTP proxy.
    let url = if named.contains("://") { named } else { format!("http://{named}") };
    // A password is before the last `@`.
    let shown = || url.rsplit('@').next().unwrap_or_default().to_owned();
    let url: Uri = url.parse().map_err(|error| format!("the proxy {:?} is no URL: {error}", shown()))?;
    match url.scheme_str() {
        Some("http" | "https" | "socks5") => Ok(Some(url)),
        scheme => Err(format!("the proxy {:?} speaks {scheme:?}; known are http, https and socks5", shown())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The environment as pairs.
    fn proxy(server: &str, of_cluster: Option<&str>, set: &[(&str, &str)]) -> Option<String> {
        let variable =
            |name: &str| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
        let url = on_the_way(&server.parse().unwrap(), of_cluster.map(str::to_owned), variable);
        url.unwrap().map(|url| url.to_string())
    }

    const SERVER: &str = "https://api.example:6443";

    #[test]
    fn a_clusters_proxy_holds_whatever_the_environment_says() {
        let set = [("HTTPS_PROXY", "http://other:1"), ("NO_PROXY", "*")];
        for server in [SERVER, "https://127.0.0.1:6443"] {
            assert_eq!(proxy(server, Some("http://own:3128"), &set).as_deref(), Some("http://own:3128/"));
        }
    }

    #[test]
    fn the_environments_holds_for_servers_that_are_not_exempt() {
        let with = |no_proxy| [("HTTPS_PROXY", "http://proxy:3128"), ("NO_PROXY", no_proxy)];
        // Of the proxy itself nothing is said.
        for no_proxy in ["", "proxy", "elsewhere.example", "api.example:443"] {
            assert!(proxy(SERVER, None, &with(no_proxy)).is_some(), "{no_proxy}");
        }
        for no_proxy in ["*", ".example", "api.example:6443"] {
            assert_eq!(proxy(SERVER, None, &with(no_proxy)), None, "{no_proxy}");
        }
        assert_eq!(proxy("https://127.0.0.1:6443", None, &with("")), None);
        assert_eq!(proxy("https://[fd00::1]", None, &with("fd00::/8")), None);
    }

    #[test]
    fn names_of_variables_follow_the_servers_scheme_and_small_letters_do() {
        assert!(proxy(SERVER, None, &[("https_proxy", "proxy:1")]).is_some());
        assert_eq!(proxy(SERVER, None, &[("HTTP_PROXY", "http://proxy:1")]), None);
        let plain = proxy("http://api.example", None, &[("HTTP_PROXY", "proxy:1")]);
        assert_eq!(plain.as_deref(), Some("http://proxy:1/"));
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_its_password() {
        for (url, said) in [("http://u:secret@a b", "no URL"), ("socks4://u:secret@proxy:1", "socks5")] {
            let error = on_the_way(&SERVER.parse().unwrap(), Some(url.into()), |_| None).unwrap_err();
            assert!(error.contains(said) && !error.contains("secret"), "{error}");
        }
    }
}
