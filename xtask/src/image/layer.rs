//! An image's files, and the layer that holds them: a gzip-compressed tar that is the same for the same files.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{EntryType, Header};

/// What lies at one path. Everything is root's.
struct Node {
    mode: u32,
    /// `None`: a directory.
    bytes: Option<Vec<u8>>,
}

/// Files and directories by their path from the root, without the slash before.
#[derive(Default)]
pub(super) struct Tree(BTreeMap<String, Node>);

impl Tree {
    /// Puts a file there, and the directories above it.
    pub(super) fn file(&mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) {
        self.put(path, Node { mode, bytes: Some(bytes.into()) });
    }

    /// Puts an empty directory there, and those above it.
    pub(super) fn directory(&mut self, path: &str, mode: u32) {
        self.put(path, Node { mode, bytes: None });
    }

    fn put(&mut self, path: &str, node: Node) {
        let path = path.trim_start_matches('/');
        for (at, _) in path.match_indices('/') {
            self.0.entry(path[..at].to_owned()).or_insert(Node { mode: 0o755, bytes: None });
        }
        self.0.insert(path.to_owned(), node);
    }
}

/// A layer as the image has it.
pub(super) struct Layer {
    /// The tar, what the config's `diff_ids` name.
    pub(super) tar: Vec<u8>,
    pub(super) gzip: Vec<u8>,
}

/// Packs `tree`: sorted, a directory before what is in it; no time, no name of an owner.
pub(super) fn pack(tree: &Tree) -> Result<Layer> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, node) in &tree.0 {
        let bytes = node.bytes.as_deref();
        append(&mut builder, path, node.mode, bytes)?;
    }
    let tar = builder.into_inner()?;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&tar)?;
    Ok(Layer { tar, gzip: gzip.finish()? })
}

/// Appends a file, or a directory where there are no bytes, with nothing of this machine in its header.
pub(super) fn append(
    builder: &mut tar::Builder<Vec<u8>>,
    path: &str,
    mode: u32,
    bytes: Option<&[u8]>,
) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(if bytes.is_some() { EntryType::Regular } else { EntryType::Directory });
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let bytes = bytes.unwrap_or_default();
    header.set_size(bytes.len() as u64);
    builder.append_data(&mut header, path, bytes)?;
    Ok(())
}
