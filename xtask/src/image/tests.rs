//! Archives of small programs, read as a container's runtime reads them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::io::Write as _;

use flate2::read::GzDecoder;
use serde_json::Value;

use super::check;
use super::layer::{self, Tree};
use super::libraries::Needs;
use super::oci::{self, Image, Source};
use super::root;
use crate::sh;
use crate::stamp::digest;

fn needs() -> Needs {
    Needs {
        architecture: "amd64",
        files: [("/lib64/ld-linux-x86-64.so.2", "the loader"), ("/usr/lib/libc.so.6", "the C library")]
            .map(|(path, bytes)| (path.to_owned(), bytes.as_bytes().to_vec()))
            .into(),
        licences: ["LGPL-2.1-or-later"].into(),
    }
}

fn archive(tree: &Tree) -> (Vec<u8>, String) {
    let source =
        Source { revision: Some("0123abcd".to_owned()), at: Some("2026-01-02T03:04:05Z".to_owned()) };
    let licences = root::licences(&needs());
    let image = Image { program: "proxy-server", architecture: "amd64", licences, source: &source };
    image.archive(&layer::pack(tree).unwrap()).unwrap()
}

/// The files of a tar by their paths; directories end in a slash.
fn entries(tar: &[u8]) -> Vec<(String, tar::Header, Vec<u8>)> {
    let mut archive = tar::Archive::new(tar);
    let read = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (path, entry.header().clone(), bytes)
    });
    read.collect()
}

/// An archive whose descriptors can be followed.
struct Layout(BTreeMap<String, Vec<u8>>);

impl Layout {
    fn of(archive: &[u8]) -> Layout {
        Layout(entries(archive).into_iter().map(|(path, _, bytes)| (path, bytes)).collect())
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&self.0[path]).unwrap()
    }

    /// Takes the blob out, which must be as it is described.
    fn take(&mut self, descriptor: &Value, media_type: &str) -> Vec<u8> {
        assert_eq!(descriptor["mediaType"], media_type);
        let named = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let bytes = self.0.remove(&format!("blobs/sha256/{named}")).unwrap();
        assert_eq!((digest(&bytes).as_str(), Some(bytes.len() as u64)), (named, descriptor["size"].as_u64()));
        bytes
    }
}

#[test]
fn an_archive_leads_from_its_index_to_the_files() {
    let (archive, digest_of_manifest) = archive(&root::tree("proxy-server", b"a program".to_vec(), &needs()));
    let mut layout = Layout::of(&archive);
    assert_eq!(layout.json("oci-layout")["imageLayoutVersion"], "1.0.0");
    let index = layout.json("index.json");
    let [described] = index["manifests"].as_array().unwrap().as_slice() else { panic!("{index}") };
    assert_eq!(described["digest"], digest_of_manifest);
    assert_eq!(described["platform"]["architecture"], "amd64");
    assert_eq!(described["annotations"]["io.containerd.image.name"], oci::name("proxy-server"));
    let manifest = layout.take(described, "application/vnd.oci.image.manifest.v1+json");
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let config = layout.take(&manifest["config"], "application/vnd.oci.image.config.v1+json");
    let [described] = manifest["layers"].as_array().unwrap().as_slice() else { panic!("{manifest}") };
    let packed = layout.take(described, "application/vnd.oci.image.layer.v1.tar+gzip");
    assert!(!layout.0.keys().any(|path| path.starts_with("blobs/sha256/") && path.len() > 20), "stray blobs");

    let config: Value = serde_json::from_slice(&config).unwrap();
    let mut files = Vec::new();
    GzDecoder::new(&*packed).read_to_end(&mut files).unwrap();
    let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap();
    assert_eq!(diff_ids.as_slice(), [format!("sha256:{}", digest(&files))]);
    assert_eq!(config["created"], "2026-01-02T03:04:05Z");
    // As upstream's.
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/proxy-server"]));
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["WorkingDir"], "/");
    let labels = &config["config"]["Labels"];
    for (label, value) in [
        ("title", "proxy-server"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("revision", "0123abcd"),
        (
            "licenses",
            "(GPL-2.0-only OR BSD-2-Clause) AND Apache-2.0 AND CDLA-Permissive-2.0 AND LGPL-2.1-or-later",
        ),
    ] {
        assert_eq!(labels[format!("org.opencontainers.image.{label}")], value);
    }

    let files = entries(&files);
    let file =
        |wanted: &str| files.iter().find(|(path, ..)| path == wanted).map(|(.., bytes)| bytes.as_slice());
    assert_eq!(file("proxy-server"), Some(&b"a program"[..]));
    assert_eq!(file("lib64/ld-linux-x86-64.so.2"), Some(&b"the loader"[..]));
    assert!(file("etc/passwd").is_some_and(|text| text.windows(14).any(|at| at == b"\nnonroot:x:655")));
    let authorities = pem::parse_many(file("etc/ssl/certs/ca-certificates.crt").unwrap()).unwrap();
    assert_eq!(authorities.len(), webpki_root_certs::TLS_SERVER_ROOT_CERTS.len());
}

#[test]
fn the_same_files_make_the_same_archive_in_whatever_order_they_come() {
    let tree = |paths: &[&str], last: &str| {
        let mut tree = Tree::default();
        for path in paths {
            tree.file(path, 0o644, *path);
        }
        tree.directory("tmp", 0o1777);
        tree.file("etc/passwd", 0o644, last);
        tree
    };
    let (one, digest) = archive(&tree(&["a/b/c", "a-b", "z"], "root"));
    assert_eq!(archive(&tree(&["z", "a-b", "a/b/c"], "root")), (one.clone(), digest.clone()));
    let (other, other_digest) = archive(&tree(&["a/b/c", "a-b", "z"], "Root"));
    assert!(other != one && other_digest != digest);

    let packed = layer::pack(&tree(&["a/b/c", "a-b", "z"], "root")).unwrap();
    // Byte 4 to 7 of a gzip file are its time, bit 3 of byte 3 says that it has a name (RFC 1952).
    assert_eq!(packed.gzip[3..8], [0; 5]);
    let entries = entries(&packed.tar);
    let paths: Vec<&str> = entries.iter().map(|(path, ..)| path.trim_end_matches('/')).collect();
    assert_eq!(paths, ["a", "a-b", "a/b", "a/b/c", "etc", "etc/passwd", "tmp", "z"]);
    for (path, header, _) in &entries {
        assert_eq!(
            (header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()),
            (0, 0, 0),
            "{path}"
        );
        assert!(header.username_bytes().is_none_or(<[u8]>::is_empty), "{path}");
    }
    let modes: Vec<u32> = entries.iter().map(|(_, header, _)| header.mode().unwrap()).collect();
    assert_eq!(modes, [0o755, 0o644, 0o755, 0o644, 0o755, 0o644, 0o1777, 0o644]);
}

/// This test is a program of the kind that ours are.
fn own() -> Vec<u8> {
    fs::read(std::env::current_exe().unwrap()).unwrap()
}

#[test]
fn a_programs_libraries_are_found_with_their_own() {
    let needs = Needs::of(&own()).unwrap();
    let names: Vec<&str> = needs.files.keys().filter_map(|path| path.rsplit('/').next()).collect();
    for wanted in ["libc.so.6", "libgcc_s.so.1"] {
        assert_eq!(names.iter().filter(|name| **name == wanted).count(), 1, "{names:?}");
    }
    let loaders: Vec<&String> = needs.files.keys().filter(|path| path.contains("/ld-linux")).collect();
    let [loader] = loaders.as_slice() else { panic!("{loaders:?}") };
    assert!(needs.licences.contains("LGPL-2.1-or-later") && needs.licences.len() == 2);
    // The loader is a static program.
    assert!(Needs::of(&needs.files[*loader]).unwrap().files.is_empty());
}

#[test]
fn what_cannot_be_packed_is_named() {
    let renamed = |to: &[u8]| {
        let mut bytes = own();
        let places: Vec<usize> = bytes
            .windows(14)
            .enumerate()
            .filter(|(_, at)| at == b"libgcc_s.so.1\0")
            .map(|(at, _)| at)
            .collect();
        for at in places {
            bytes[at..at + to.len()].copy_from_slice(to);
        }
        bytes
    };
    let mut other_machine = own();
    // e_machine of the ELF header: RISC-V.
    other_machine[18..20].copy_from_slice(&243u16.to_le_bytes());
    for (program, said) in [
        (b"#!/bin/sh\n".to_vec(), "no 64-bit ELF file"),
        (renamed(b"libgcc_x.so.1"), "it needs libgcc_x.so.1, whose licence"),
        (other_machine, "ELF machine 243"),
    ] {
        let error = Needs::of(&program).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn a_program_that_lacks_its_libraries_does_not_count_as_packed() {
    if !check::possible() {
        // Past libtest's capture: a skip must be seen.
        let why = "this machine lets us change the root directory nowhere";
        let _ = writeln!(std::io::stderr(), "\n!!! SKIPPED: {why}\n");
        return;
    }
    // Any that has --version and needs no more than the C library.
    let here = sh::find("unshare").unwrap();
    let bytes = fs::read(&here).unwrap();
    let mut needs = Needs::of(&bytes).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("image.tar");
    let write = |needs: &Needs| {
        fs::write(&place, archive(&root::tree("unshare", bytes.clone(), needs)).0).unwrap();
    };
    write(&needs);
    check::starts("unshare", &place, &here).unwrap();
    needs.files.retain(|path, _| !path.ends_with("/libc.so.6"));
    write(&needs);
    let error = check::starts("unshare", &place, &here).unwrap_err().to_string();
    assert!(error.contains("does not start inside its image") && error.contains("libc.so.6"), "{error}");
}

#[test]
fn the_manifests_name_these_images() {
    for (manifest, program) in
        [("deploy/server/pod.yaml", "proxy-server"), ("deploy/agent/daemonset.yaml", "proxy-agent")]
    {
        let text = fs::read_to_string(sh::root().join(manifest)).unwrap();
        let named: Vec<&str> =
            text.lines().filter_map(|line| line.trim_start().strip_prefix("image: ")).collect();
        assert_eq!(named, [oci::name(program)], "{manifest}");
    }
}
