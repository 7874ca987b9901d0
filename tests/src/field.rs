//! The real binaries beside a stand-in of the API server, which they reach by a kubeconfig.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::apiserver::{ApiServer, Caller};
use crate::child::Child;
use crate::konduit::binaries;
use crate::runner::Ground;
use crate::{ports, scrape};

/// For whatever should happen at once: wide, for machines that are busy.
pub const SOON: Duration = Duration::from_secs(30);
/// Who agents' tokens are meant for, and whose they are.
pub const AUDIENCE: &str = "system:konnectivity-server";
pub const ACCOUNT: &str = "system:serviceaccount:kube-system:konnectivity-agent";

/// Makes a server ask for tokens of [`ACCOUNT`], meant for [`AUDIENCE`].
pub const TOKENS: [&str; 3] = [
    "--agent-namespace=kube-system",
    "--agent-service-account=konnectivity-agent",
    "--authentication-audience=system:konnectivity-server",
];

/// One stand-in, and room for a server and its agents.
pub struct Field {
    pub ground: Ground,
    pub api: ApiServer,
    pub agent_port: u16,
    pub server_pages: SocketAddr,
}

impl Field {
    pub fn new() -> anyhow::Result<Field> {
        let ground = Ground::new()?;
        let api = ApiServer::start(&ground.path(""))?;
        let [agent_port, health] = ports::free()?;
        Ok(Field { ground, api, agent_port, server_pages: ([127, 0, 0, 1], health).into() })
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.ground.path(name)
    }

    /// A server without `--cluster-ca-cert`, up and named `this`.
    pub fn server(&self, kubeconfig: &Path, flags: &[&str]) -> anyhow::Result<Child> {
        self.server_in(&[], kubeconfig, flags)
    }

    /// The same in this environment.
    pub fn server_in(
        &self,
        variables: &[(&str, &str)],
        kubeconfig: &Path,
        flags: &[&str],
    ) -> anyhow::Result<Child> {
        let mut command = Command::new(binaries()?.join("proxy-server"));
        command.envs(variables.iter().copied());
        self.start_server(command, &[&[&*format!("--kubeconfig={}", kubeconfig.display())], flags].concat())
    }

    /// A server without a kubeconfig that finds what a pod of the API server's cluster finds. Takes root.
    pub fn server_in_pod(&self, flags: &[&str]) -> anyhow::Result<Child> {
        const POD: &str = "mount -t tmpfs pod /var/run && d=/var/run/secrets/kubernetes.io/serviceaccount && \
                           mkdir -p $d && mount --bind \"$0\" $d && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", POD]).arg(self.api.service_account()?);
        command.arg(binaries()?.join("proxy-server"));
        command.env("KUBERNETES_SERVICE_HOST", self.api.address.ip().to_string());
        command.env("KUBERNETES_SERVICE_PORT", self.api.address.port().to_string());
        self.start_server(command, flags)
    }

    fn start_server(&self, mut command: Command, flags: &[&str]) -> anyhow::Result<Child> {
        let [admin] = ports::free()?;
        command.args([
            "--mode=http-connect".to_owned(),
            format!("--uds-name={}", self.file("frontend.sock").display()),
            "--server-port=0".to_owned(),
            "--server-id=this".to_owned(),
            format!("--agent-port={}", self.agent_port),
            format!("--cluster-cert={}", self.file("server.crt").display()),
            format!("--cluster-key={}", self.file("server.key").display()),
            format!("--health-port={}", self.server_pages.port()),
            format!("--admin-port={admin}"),
            "--operator-socket=".to_owned(),
        ]);
        command.args(flags);
        let mut child = Child::start("server", &self.ground.path(""), &mut command)?;
        let up = ports::wait(SOON, "the server", || scrape::http_get(self.server_pages, "/healthz").is_ok());
        child.check()?;
        up?;
        Ok(child)
    }

    /// A server that asks for tokens of [`ACCOUNT`].
    pub fn with_tokens(&self, caller: Caller) -> anyhow::Result<Child> {
        self.server(&self.api.kubeconfig(caller)?, &TOKENS)
    }

    /// An agent without a certificate, and its pages.
    pub fn agent(&self, name: &str, flags: &[&str]) -> anyhow::Result<(Child, SocketAddr)> {
        let [health, admin] = ports::free()?;
        let mut command = Command::new(binaries()?.join("proxy-agent"));
        command.args([
            format!("--proxy-server-port={}", self.agent_port),
            format!("--ca-cert={}", self.file("ca.crt").display()),
            format!("--agent-id={name}"),
            "--drain-quiet=1ms".to_owned(),
            "--sync-interval=100ms".to_owned(),
            "--sync-interval-cap=300ms".to_owned(),
            "--health-server-host=127.0.0.1".to_owned(),
            format!("--health-server-port={health}"),
            format!("--admin-server-port={admin}"),
            "--operator-socket=".to_owned(),
        ]);
        command.args(flags);
        let child = Child::start(name, &self.ground.path(""), &mut command)?;
        Ok((child, ([127, 0, 0, 1], health).into()))
    }

    /// Shows what is in the file `token`.
    pub fn agent_with(&self, token: &str) -> anyhow::Result<(Child, SocketAddr)> {
        fs::write(self.file("token"), token)?;
        let flag = format!("--service-account-token-path={}", self.file("token").display());
        self.agent("agent", &[&flag])
    }

    /// For flags that are given and never used.
    pub fn kubeconfig_of_nobody(&self) -> anyhow::Result<PathBuf> {
        self.api.kubeconfig(Caller::Token)
    }

    /// The sum of a metric of the server over its series.
    pub fn metric(&self, name: &str) -> f64 {
        scrape::Page::get(self.server_pages).map_or(f64::NAN, |page| page.sum(&format!("server_{name}"), &[]))
    }

    /// What the server replies to a CONNECT.
    pub fn dial(&self, target: &str) -> anyhow::Result<String> {
        let mut socket = UnixStream::connect(self.file("frontend.sock"))?;
        socket.set_read_timeout(Some(SOON))?;
        socket.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())?;
        let mut head = vec![0; 4096];
        let length = socket.read(&mut head)?;
        Ok(String::from_utf8_lossy(&head[..length]).into_owned())
    }

    /// The server has an agent.
    pub fn ready(&self) -> bool {
        scrape::http_get(self.server_pages, "/readyz").is_ok()
    }
}

/// Waits until the program has said something with all these words.
pub fn says(child: &Child, words: &str) -> anyhow::Result<()> {
    let said = || fs::read_to_string(&child.log).is_ok_and(|log| log.contains(words));
    Ok(ports::wait(SOON, &format!("{words:?} in {}", child.log.display()), said)?)
}
