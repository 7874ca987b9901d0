//! Upstream's own Go client, with a connection per tunnel or with many dials on one: it dials for whoever sends a
//! CONNECT to its socket, so every test can be its user.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use proxy_tests::child::Child;
use proxy_tests::runner::{Ground, until};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tunnel {
    /// As kube-apiserver has it.
    Single,
    Reusable,
}

pub(crate) struct Bridge {
    pub socket: PathBuf,
    pub tunnel: Tunnel,
    _client: Child,
}

impl Bridge {
    /// In front of the frontend at `server`.
    pub(crate) async fn start(
        ground: &Ground,
        server: &Path,
        tunnel: Tunnel,
        plain_authority: bool,
    ) -> anyhow::Result<Bridge> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let program = tokio::task::spawn_blocking(client).await??;
        let name = format!("go-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let socket = ground.path(&format!("{name}.sock"));
        let mut command = Command::new(program);
        command.arg("-socket").arg(server).arg("-listen").arg(&socket).arg("-tunnel").arg(match tunnel {
            Tunnel::Single => "single",
            Tunnel::Reusable => "reusable",
        });
        if plain_authority {
            command.args(["-authority", "localhost"]);
        }
        let mut client = Child::start(&name, &ground.path(""), &mut command)?;
        if let Err(error) = until("the Go client", || socket.exists()).await {
            client.check()?;
            return Err(error);
        }
        Ok(Bridge { socket, tunnel, _client: client })
    }
}

/// Builds `tests/kubernetes/konnectivity` once.
fn client() -> anyhow::Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("konnectivity-client");
        let module = concat!(env!("CARGO_MANIFEST_DIR"), "/kubernetes/konnectivity");
        let mut go = Command::new("go");
        go.current_dir(module).args(["build", "-o"]).arg(&program).arg(".");
        let built = go.output().map_err(|error| format!("Go 1.26 or newer is needed: {error}"))?;
        match built.status.success() {
            true => Ok(program),
            false => Err(String::from_utf8_lossy(&built.stderr).into_owned()),
        }
    });
    built.clone().map_err(anyhow::Error::msg)
}
