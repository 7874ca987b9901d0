//! Starts a program inside its image, as a container's runtime would: nothing of this machine's files is in reach.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use serde_json::Value;

use super::root::NONROOT;
use crate::sh;

/// Unpacks the archive beside itself and runs the program in it with `--version`, which must print what it prints here.
/// Without the right to change the root directory that is skipped, and said.
pub(super) fn starts(program: &str, archive: &Path, here: &Path) -> Result<()> {
    let Some(confine) = Confine::find() else {
        println!(
            "!!! SKIPPED: nobody knows whether {program} starts inside its image: this machine lets us change the \
             root directory neither as root nor in a user namespace"
        );
        return Ok(());
    };
    let beside = archive.parent().unwrap_or(Path::new("."));
    let room = tempfile::tempdir_in(beside)?;
    // The room is closed to other users, and the program is one.
    let root = room.path().join("root");
    fs::create_dir(&root)?;
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
    unpack(archive, &root).with_context(|| format!("could not unpack {}", archive.display()))?;
    let version = |command: &mut Command| {
        let output = command.arg("--version").env_remove("LD_LIBRARY_PATH").output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::Ok((output.status, said, String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (_, expected, _) = version(&mut Command::new(here))?;
    let (status, said, error) = version(&mut confine.command(&root, &format!("/{program}")))?;
    if !status.success() || said != expected || said.is_empty() {
        bail!("{program} does not start inside its image ({status}); it said:\n{said}{error}");
    }
    sh::say(format!("{program} starts inside its image"));
    Ok(())
}

/// Whether programs can be started inside images here.
#[cfg(test)]
pub(super) fn possible() -> bool {
    Confine::find().is_some()
}

/// How to change the root directory here.
enum Confine {
    AsRoot,
    InNamespace,
}

impl Confine {
    fn find() -> Option<Confine> {
        let way = if sh::is_root() { Confine::AsRoot } else { Confine::InNamespace };
        sh::ask(&mut way.command(Path::new("/"), "/bin/true")).map(|_| way)
    }

    fn command(&self, root: &Path, program: &str) -> Command {
        let mut command = match self {
            // As the user that the image names.
            Confine::AsRoot => {
                let mut command = Command::new("chroot");
                command.arg(format!("--userspec={NONROOT}:{NONROOT}")).arg(root);
                command
            }
            Confine::InNamespace => {
                let mut command = Command::new("unshare");
                command.args(["--user", "--map-root-user", "--root"]).arg(root);
                command
            }
        };
        command.arg(program);
        command
    }
}

/// Follows the archive from its index to the layer's files.
fn unpack(archive: &Path, root: &Path) -> Result<()> {
    let named = |value: &Value| {
        let digest = value["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
        digest.map(|digest| format!("blobs/sha256/{digest}")).context("a descriptor without a digest")
    };
    let index: Value = serde_json::from_slice(&entry(archive, "index.json")?)?;
    let manifest: Value = serde_json::from_slice(&entry(archive, &named(&index["manifests"][0])?)?)?;
    let layer = entry(archive, &named(&manifest["layers"][0])?)?;
    tar::Archive::new(GzDecoder::new(&*layer)).unpack(root)?;
    Ok(())
}

fn entry(archive: &Path, path: &str) -> Result<Vec<u8>> {
    for entry in tar::Archive::new(File::open(archive)?).entries()? {
        let mut entry = entry?;
        if entry.path()?.as_os_str() == path {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            return Ok(bytes);
        }
    }
    bail!("it holds no {path}")
}
