//! `cargo xtask image`: both programs as OCI images, without a container engine and without a network.

mod check;
mod layer;
mod libraries;
mod oci;
mod root;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{build, sh};
use libraries::Needs;
use oci::{Image, Source};

/// What `--help` tells.
pub(crate) const HELP: &str = "\
Build both release binaries and pack each into an image that takes the place of upstream's: the program at \
/proxy-server or /proxy-agent is the entrypoint, the user is 65532, the working directory /. Beside it lie the C \
library that it was linked with here, Mozilla's CA certificates and the few files that any program expects; no shell.

Writes target/image/proxy-server.tar and target/image/proxy-agent.tar, OCI image layouts, without a container engine. \
The same commit on the same machine makes the same digests. Each program is started once inside its image.";

/// As upstream calls them; each is at that path in its image too.
const PROGRAMS: [&str; 2] = ["proxy-server", "proxy-agent"];

pub(crate) fn run() -> Result<()> {
    build::ebpf(false)?;
    build::binaries("release")?;
    let images = make(&sh::root().join("target/release"), &sh::root().join("target/image"))?;
    for made in &images {
        println!("{}\n  {} ({} bytes)\n  {}", made.name, shown(&made.archive), made.bytes, made.digest);
    }
    println!("\nOnto a node, as the manifests in deploy/ name them:");
    for made in &images {
        println!("  ctr -n k8s.io images import {}", shown(&made.archive));
    }
    println!("Into a registry, whose names the manifests then need:");
    for (made, program) in images.iter().zip(PROGRAMS) {
        let archive = shown(&made.archive);
        println!("  skopeo copy oci-archive:{archive} docker://REGISTRY/{program}:{}", oci::VERSION);
    }
    Ok(())
}

/// An archive that was written and tried.
pub(crate) struct Made {
    name: String,
    archive: PathBuf,
    bytes: usize,
    /// Of the manifest: what `NAME@` takes.
    digest: String,
}

/// Packs each of [`PROGRAMS`] from `programs` into an archive in `folder` and starts it inside.
pub(crate) fn make(programs: &Path, folder: &Path) -> Result<Vec<Made>> {
    fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    let source = source();
    PROGRAMS.iter().map(|program| pack(program, &programs.join(program), folder, &source)).collect()
}

fn pack(program: &'static str, path: &Path, folder: &Path, source: &Source) -> Result<Made> {
    sh::say(format!("pack {program}"));
    let bytes = fs::read(path)
        .with_context(|| format!("there is no {}; `cargo xtask build` makes it", path.display()))?;
    let needs = Needs::of(&bytes).with_context(|| format!("could not tell what {} needs", path.display()))?;
    let tree = root::tree(program, bytes, &needs);
    let image = Image { program, architecture: needs.architecture, licences: root::licences(&needs), source };
    let (archive, digest) = image.archive(&layer::pack(&tree)?)?;
    let place = folder.join(format!("{program}.tar"));
    // Whole and tried, or not at all: somebody may be copying the one before.
    let part = folder.join(format!(".{program}.tar.part"));
    fs::write(&part, &archive).with_context(|| format!("could not write {}", part.display()))?;
    check::starts(program, &part, path)?;
    fs::rename(&part, &place).with_context(|| format!("could not write {}", place.display()))?;
    Ok(Made { name: oci::name(program), archive: place, bytes: archive.len(), digest })
}

/// The commit that is checked out, where there is git.
fn source() -> Source {
    let git =
        |args: &[&str]| sh::ask(Command::new("git").current_dir(sh::root()).env("TZ", "UTC").args(args));
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|files| !files.is_empty());
    let revision = git(&["rev-parse", "HEAD"]).map(|commit| match changed {
        true => {
            sh::say("files differ from the commit: the images are labelled as such (-dirty)");
            format!("{commit}-dirty")
        }
        false => commit,
    });
    Source { revision, at: git(&["show", "-s", "--date=format-local:%Y-%m-%dT%H:%M:%SZ", "--format=%cd"]) }
}

/// As one would type it at the root of the repository.
fn shown(path: &Path) -> String {
    path.strip_prefix(sh::root()).unwrap_or(path).display().to_string()
}
