//! What an eBPF object was built from. Also compiled into `proxy-user/build.rs`, which compares.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use sha2::{Digest, Sha256};

/// The lock entries that end up in the object.
const CRATES: [&str; 4] = ["aya-ebpf", "aya-ebpf-bindings", "aya-ebpf-cty", "aya-ebpf-macros"];

/// The digests that must match for an object to be used, and the toolchain that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// sha256 over proxy-ebpf's manifest and sources and over the lock entries of its dependencies.
    pub(crate) sources: String,
    /// sha256 of the object itself.
    pub(crate) object: String,
    /// What compiled it, in words.
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

/// The digest of everything the object is made of, except the toolchain.
pub(crate) fn sources(root: &Path) -> io::Result<String> {
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
