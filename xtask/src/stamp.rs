//! What an eBPF object was built from. Also compiled into `proxy-user/build.rs`, which compares.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use sha2::{Digest, Sha256};

/// The lock entries that end up in the object.
const CRATES: [&str; 4] = ["aya-ebpf", "aya-ebpf-bindings", "aya-ebpf-cty", "aya-ebpf-macros"];

/// What the compiler is told, but for the machine's architecture and where the linker is.
pub(crate) const FLAGS: [&str; 3] = ["-Cdebuginfo=2", "-Ctarget-cpu=v3", "-Clink-arg=--btf"];

/// The digests that must match for an object to be used, and the toolchain that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// sha256 over proxy-ebpf's manifest and sources, the lock entries of its dependencies, the compiler's flags and
    /// the release profile.
    pub(crate) sources: String,
    /// sha256 of the object itself.
    pub(crate) object: String,
    /// What compiled and linked it, in words. Who embeds an object may lack both; who can build it compares.
    pub(crate) toolchain: String,
}

/// The built object, relative to the root of the repository.
pub(crate) fn object_path(root: &Path) -> PathBuf {
    root.join("proxy-user/ebpf/proxy-ebpf.o")
}

/// The stamp beside the object.
pub(crate) fn stamp_path(root: &Path) -> PathBuf {
    root.join("proxy-user/ebpf/proxy-ebpf.stamp")
}

impl Stamp {
    /// Reads the stamp beside the object; an unreadable or incomplete one is no stamp.
    pub(crate) fn read(root: &Path) -> Option<Stamp> {
        let text = fs::read_to_string(stamp_path(root)).ok()?;
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned))
        };
        Some(Stamp { sources: field("sources")?, object: field("object")?, toolchain: field("toolchain")? })
    }

    /// The text of the stamp's file.
    pub(crate) fn render(&self) -> String {
        format!("sources {}\nobject {}\ntoolchain {}\n", self.sources, self.object, self.toolchain)
    }
}

/// The object and its stamp, when they belong together and to these sources.
pub(crate) fn matching(root: &Path) -> Result<(Vec<u8>, Stamp), String> {
    let stamp = Stamp::read(root).ok_or("there is no eBPF object yet")?;
    let object = fs::read(object_path(root)).map_err(|_| "there is a stamp but no eBPF object")?;
    let sources =
        sources(root).map_err(|error| format!("could not read what the eBPF object is made of: {error}"))?;
    if stamp.sources != sources {
        return Err("the eBPF object was built from other sources or with other flags than these".to_owned());
    }
    if stamp.object != digest(&object) {
        return Err("the eBPF object is not the one its stamp names".to_owned());
    }
    Ok((object, stamp))
}

/// What a build of this cargo profile embeds. A release build refuses without a matching object: a binary that
/// silently lost its fast path is worse than none. A debug build goes on with nothing, and the binary says so.
#[allow(dead_code)] // Here its test uses it, in build.rs the build.
pub(crate) fn to_embed(root: &Path, profile: &str) -> Result<Option<(Vec<u8>, Stamp)>, String> {
    match matching(root) {
        Ok(both) => Ok(Some(both)),
        Err(why) if profile == "release" => Err(format!(
            "{why}. Run: cargo xtask build (or build with --no-default-features for a binary without eBPF)"
        )),
        Err(_) => Ok(None),
    }
}

/// The digest of everything the object is made of, except the toolchain.
pub(crate) fn sources(root: &Path) -> io::Result<String> {
    made_of(root, &FLAGS)
}

/// The same with other flags.
pub(crate) fn made_of(root: &Path, flags: &[&str]) -> io::Result<String> {
    let crate_root = root.join("proxy-ebpf");
    let mut files = vec![crate_root.join("Cargo.toml")];
    for entry in fs::read_dir(crate_root.join("src"))? {
        files.push(entry?.path());
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let bytes = fs::read(&file)?;
        let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        hash.update(format!("{name} {}\n", bytes.len()));
        hash.update(&bytes);
    }
    let lock = fs::read_to_string(root.join("Cargo.lock"))?;
    for entry in lock.split("[[package]]") {
        let name = entry.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
        if name.is_some_and(|name| CRATES.contains(&name)) {
            hash.update(entry.trim());
        }
    }
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let profile = manifest.lines().skip_while(|line| *line != "[profile.release]").skip(1);
    for line in profile.take_while(|line| !line.starts_with('[')).chain(flags.iter().copied()) {
        hash.update(format!("\n{}", line.trim()));
    }
    Ok(hex(&hash.finalize()))
}

/// The digest of a file's bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
