//! An image as an OCI image layout in a tar: <https://github.com/opencontainers/image-spec>, image-layout.md.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

use super::layer::{self, Layer};
use super::root::NONROOT;
use crate::stamp::digest;

/// The workspace's; the tag of the images.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What the manifests in `deploy/` call the image. Nothing is ever pulled from `localhost`: a node that was not given
/// the image says so, instead of running a stranger's of the same name.
pub(super) fn name(program: &str) -> String {
    format!("localhost/konduit/{program}:{VERSION}")
}

/// What the programs were built from.
pub(super) struct Source {
    /// `None` where there is no git.
    pub(super) revision: Option<String>,
    /// The revision's time, RFC 3339. The image's too, so that it is the same whenever it is made.
    pub(super) at: Option<String>,
}

pub(super) struct Image<'a> {
    pub(super) program: &'a str,
    pub(super) architecture: &'a str,
    /// An SPDX expression.
    pub(super) licences: String,
    pub(super) source: &'a Source,
}

impl Image<'_> {
    /// The archive, and the manifest's digest in the form `sha256:…`.
    pub(super) fn archive(&self, layer: &Layer) -> Result<(Vec<u8>, String)> {
        let mut blobs = Blobs::default();
        let packed = blobs.add(LAYER, layer.gzip.clone());
        let config = blobs.add(CONFIG, serde_json::to_vec(&self.config(layer))?);
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [packed] });
        let mut manifest = blobs.add(MANIFEST, serde_json::to_vec(&manifest)?);
        let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
        manifest["platform"] = json!({ "architecture": self.architecture, "os": "linux" });
        // Each of the two is the name for somebody: the first for containerd, the second for all others.
        manifest["annotations"] = json!({
            "io.containerd.image.name": name(self.program),
            "org.opencontainers.image.ref.name": VERSION,
        });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest] });
        Ok((blobs.archive(&serde_json::to_vec(&index)?)?, digest))
    }

    fn config(&self, layer: &Layer) -> Value {
        let mut labels = json!({
            "org.opencontainers.image.title": self.program,
            "org.opencontainers.image.version": VERSION,
            "org.opencontainers.image.licenses": self.licences,
        });
        if let Some(revision) = &self.source.revision {
            labels["org.opencontainers.image.revision"] = json!(revision);
        }
        let mut config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": {
                "Entrypoint": [format!("/{}", self.program)],
                "User": format!("{NONROOT}:{NONROOT}"),
                "WorkingDir": "/",
                "Labels": labels,
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer.tar))] },
        });
        if let Some(at) = &self.source.at {
            config["created"] = json!(at);
        }
        config
    }
}

/// The blobs by their sha256 in hexadecimal.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Takes a blob in and returns its descriptor.
    fn add(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let (digest, size) = (digest(&bytes), bytes.len());
        let descriptor =
            json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size });
        self.0.insert(digest, bytes);
        descriptor
    }

    fn archive(&self, index: &[u8]) -> Result<Vec<u8>> {
        let mut builder = tar::Builder::new(Vec::new());
        for folder in ["blobs", "blobs/sha256"] {
            layer::append(&mut builder, folder, 0o755, None)?;
        }
        for (digest, bytes) in &self.0 {
            layer::append(&mut builder, &format!("blobs/sha256/{digest}"), 0o644, Some(bytes))?;
        }
        layer::append(&mut builder, "index.json", 0o644, Some(index))?;
        layer::append(&mut builder, "oci-layout", 0o644, Some(br#"{"imageLayoutVersion":"1.0.0"}"#))?;
        Ok(builder.into_inner()?)
    }
}
