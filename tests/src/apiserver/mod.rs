//! A stand-in of the Kubernetes API server, in this process: HTTPS, tokens, leases, nodes, and every way to be unwell.

mod leases;
mod nodes;
mod serve;
mod tokens;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use crate::certs::Certs;
use leases::Leases;
use nodes::Nodes;
use tokens::Tokens;

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mood {
    #[default]
    Well,
    /// Each answer comes this late.
    Slow(Duration),
    /// Each answer is this HTTP status.
    Refuses(u16),
    /// Takes requests and never answers.
    Hangs,
    /// Ends every connection before TLS.
    Absent,
}

/// One running stand-in; ends when dropped.
pub struct ApiServer {
    pub address: SocketAddr,
    directory: PathBuf,
    certs: Certs,
    state: &'static State,
    _runtime: tokio::runtime::Runtime,
}

/// Leaked: a stand-in lives about as long as its test process.
#[derive(Default)]
struct State {
    mood: Mutex<Mood>,
    /// The bearer token that callers must show, unless they have a certificate.
    credential: Mutex<String>,
    tokens: Mutex<Tokens>,
    leases: Leases,
    nodes: Nodes,
    /// Method, path and query of every request.
    asked: Mutex<Vec<String>>,
}

/// How callers show who they are, in a kubeconfig.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    Token,
    TokenFile,
    Certificate,
}

impl ApiServer {
    /// Serves on a free port; its files are in `directory/apiserver`.
    pub fn start(directory: &Path) -> anyhow::Result<ApiServer> {
        let directory = directory.join("apiserver");
        fs::create_dir_all(&directory)?;
        let certs = Certs::new(&directory, "kubernetes")?;
        let pair = certs.server("apiserver", &["127.0.0.1"])?;
        certs.client("caller", "system:konnectivity-server", None)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let state: &'static State = Box::leak(Box::default());
        *lock(&state.credential) = "first".into();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        runtime.spawn(serve::serve(listener, serve::tls(&pair, &certs.ca())?, state));
        Ok(ApiServer { address, directory, certs, state, _runtime: runtime })
    }

    pub fn is(&self, mood: Mood) {
        *lock(&self.state.mood) = mood;
    }

    /// Callers must show this token from now on; token files are rewritten.
    pub fn expect_credential(&self, token: &str) -> anyhow::Result<()> {
        *lock(&self.state.credential) = token.into();
        let in_pod = self.directory.join("serviceaccount/token");
        if in_pod.exists() {
            fs::write(in_pod, token)?;
        }
        Ok(fs::write(self.directory.join("token"), token)?)
    }

    /// What a pod finds in /var/run/secrets/kubernetes.io/serviceaccount, in a directory.
    pub fn service_account(&self) -> anyhow::Result<PathBuf> {
        let directory = self.directory.join("serviceaccount");
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("token"), lock(&self.state.credential).as_bytes())?;
        fs::write(directory.join("namespace"), "kube-system")?;
        fs::copy(self.certs.ca(), directory.join("ca.crt"))?;
        Ok(directory)
    }

    /// What a TokenReview says of `token`, for `audience`.
    pub fn knows(&self, token: &str, username: &str, audience: &str) {
        lock(&self.state.tokens).add(token, username, audience);
    }

    /// Requests so far whose line (`GET /apis/…?…`) contains `words`.
    pub fn asked(&self, words: &str) -> usize {
        lock(&self.state.asked).iter().filter(|line| line.contains(words)).count()
    }

    /// The leases there are, as JSON.
    pub fn leases(&self) -> Vec<Value> {
        self.state.leases.all()
    }

    /// Puts a lease there that was renewed `ago` and lasts 300 s, in `kube-system`.
    pub fn lease(&self, name: &str, labels: &Value, ago: Duration) {
        self.lease_in("kube-system", name, labels, ago);
    }

    /// The same in another namespace.
    pub fn lease_in(&self, namespace: &str, name: &str, labels: &Value, ago: Duration) {
        self.state.leases.put(namespace, name, labels, ago);
    }

    pub fn drop_lease(&self, name: &str) {
        self.state.leases.remove(name);
    }

    /// Renews this lease, of `kube-system`, once somebody has listed leases.
    pub fn renew_behind_list(&self, name: &'static str, labels: Value) {
        self.state.leases.behind_list(move |leases| leases.put("kube-system", name, &labels, Duration::ZERO));
    }

    /// Deletes it then.
    pub fn drop_lease_behind_list(&self, name: &'static str) {
        self.state.leases.behind_list(move |leases| leases.remove(name));
    }

    /// Whoever asks to watch leases gets this HTTP status.
    pub fn refuse_lease_watches(&self, code: u16) {
        self.state.leases.refuse_watches(code);
    }

    /// Makes the next `count` updates fail: somebody else was faster.
    pub fn conflicts(&self, count: usize) {
        self.state.leases.conflict(count);
    }

    /// Puts a node there or changes it.
    pub fn node(&self, name: &str, address: &str, pods: &[&str]) {
        self.state.nodes.put(name, address, pods);
    }

    pub fn drop_node(&self, name: &str) {
        self.state.nodes.remove(name);
    }

    /// Whether the list of nodes has no end: its continue token comes again and again.
    pub fn list_nodes_in_a_circle(&self, circle: bool) {
        self.state.nodes.go_round(circle);
    }

    /// Tells whoever watches nodes that what happened is forgotten (410): all are to be listed anew.
    pub fn forget_nodes(&self) {
        self.state.nodes.forget();
    }

    /// A kubeconfig for this server.
    pub fn kubeconfig(&self, caller: Caller) -> anyhow::Result<PathBuf> {
        let path = self.directory.join(format!("{caller:?}.kubeconfig"));
        fs::write(self.directory.join("token"), lock(&self.state.credential).as_bytes())?;
        let user = match caller {
            Caller::Token => json!({ "token": *lock(&self.state.credential) }),
            // Relative: as seen from the kubeconfig's directory.
            Caller::TokenFile => json!({ "tokenFile": self.directory.join("token") }),
            Caller::Certificate => json!({
                "client-certificate": "caller.crt",
                "client-key": "caller.key",
            }),
        };
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "here", "cluster": {
                "server": format!("https://{}", self.address),
                "certificate-authority": self.certs.ca(),
            }}],
            "users": [{ "name": "caller", "user": user }],
            "contexts": [{ "name": "this", "context": { "cluster": "here", "user": "caller" }}],
            "current-context": "this",
        });
        // JSON is YAML.
        fs::write(&path, config.to_string()).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An API error, as the API server tells it.
fn failure(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    });
    (code, status)
}
