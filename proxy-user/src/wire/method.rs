//! Which gRPC method a request's path names.

/// Why `path` does not name this method of this service, in grpc-go's words; `None` when it does.
pub fn unknown(path: &str, service: &str, method: &str) -> Option<String> {
    match path.strip_prefix('/').unwrap_or(path).rsplit_once('/') {
        None => Some(format!("malformed method name: {path:?}")),
        Some((of, name)) if of == service && name == method => None,
        Some((of, name)) if of == service => Some(format!("unknown method {name} for service {of}")),
        Some((of, _)) => Some(format!("unknown service {of}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_here_is_told_in_grpc_gos_words() {
        let said = |path| unknown(path, "AgentService", "Connect").unwrap_or_default();
        assert_eq!(said("/AgentService/Connect"), "");
        assert_eq!(said("/AgentService/Other"), "unknown method Other for service AgentService");
        assert_eq!(said("/ProxyService/Proxy"), "unknown service ProxyService");
        assert_eq!(said("//AgentService/Connect"), "unknown service /AgentService");
        assert_eq!(said("/a/b/c"), "unknown service a/b");
        assert_eq!(said("/nonsense"), "malformed method name: \"/nonsense\"");
    }
}
