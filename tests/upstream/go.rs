//! Upstream's own Go client at the gRPC frontend, with a connection per tunnel and with many dials on one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::Context;
use proxy_tests::konduit::Frontend;
use proxy_tests::targets::Target;

use crate::pair::{Pair, Pairing, Side};
use proxy_tests::dark::Dark;

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

async fn drive(server: Side, agent: Side) -> anyhow::Result<()> {
    let program = tokio::task::spawn_blocking(client).await??;
    let pair = Pair::start(Pairing { server, agent, frontend: Frontend::Grpc, lanes: true }).await?;
    let (target, dark) = (Target::echo().await?, Dark::new()?);
    for tunnel in ["single", "reusable"] {
        for case in ["basic", "large", "concurrent", "cancelled"] {
            let mut command = tokio::process::Command::new(&program);
            command.args(["-tunnel", tunnel, "-case", case, "-echo", &target.name(), "-limit", "60s"]);
            command.arg("-socket").arg(pair.socket()).args(["-dark", &dark.address.to_string()]);
            if pair.plain_authority() {
                command.args(["-authority", "localhost"]);
            }
            let told = command.output().await.context("running the Go client")?;
            let words = String::from_utf8_lossy(&told.stderr);
            anyhow::ensure!(told.status.success(), "{tunnel} {case}: {words}");
        }
    }
    pair.kept_to_the_contract();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drives_ours() {
    drive(Side::Ours, Side::Ours).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drives_upstreams_agent() {
    drive(Side::Ours, Side::Upstream).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drives_upstreams_server() {
    drive(Side::Upstream, Side::Ours).await.unwrap();
}

/// The control.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drives_upstreams_two() {
    drive(Side::Upstream, Side::Upstream).await.unwrap();
}
