//! An object of other sources, flags or tools must not pass for one of these, and one of these must not be built
//! anew.

use std::fs;
use std::path::{Path, PathBuf};

use crate::build::is_current;
use crate::stamp::{FLAGS, Stamp, digest, made_of, matching, object_path, sources, stamp_path, to_embed};

/// A repository that holds what the stamp looks at; gone when dropped.
struct Repository(PathBuf);

impl Repository {
    fn new(test: &str) -> Repository {
        let root = std::env::temp_dir().join(format!("konduit-stamp-{test}-{}", std::process::id()));
        let repository = Repository(root);
        for (path, text) in FILES {
            repository.write(path, text);
        }
        repository
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn sources(&self) -> String {
        sources(&self.0).unwrap()
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const LOCK: &str = "version = 4\n\n\
    [[package]]\nname = \"aya-ebpf\"\nversion = \"0.2.1\"\nchecksum = \"ea\"\n\n\
    [[package]]\nname = \"aya-ebpf-macros\"\nversion = \"0.2.0\"\nchecksum = \"23\"\n\n\
    [[package]]\nname = \"tokio\"\nversion = \"1.0.0\"\nchecksum = \"70\"\n";

const MANIFEST: &str = "[workspace]\n\n[profile.release]\nlto = \"thin\"\n\n[profile.dev]\ndebug = 1\n";

const FILES: [(&str, &str); 6] = [
    ("proxy-ebpf/Cargo.toml", "[package]\nname = \"proxy-ebpf\"\n"),
    ("proxy-ebpf/src/main.rs", "fn verdict() {}\n"),
    ("proxy-ebpf/src/maps.rs", "static FLOWS: u8 = 0;\n"),
    ("Cargo.lock", LOCK),
    ("Cargo.toml", MANIFEST),
    ("proxy-user/src/lib.rs", "//! The library.\n"),
];

#[test]
fn what_the_object_is_made_of_changes_the_digest_and_nothing_else_does() {
    let lock = |from: &str, to: &str| {
        let changed = LOCK.replacen(from, to, 1);
        assert_ne!(changed, LOCK);
        changed
    };
    let cases = [
        ("a source", "proxy-ebpf/src/main.rs", "fn verdict() {} \n".to_owned(), true),
        ("another source", "proxy-ebpf/src/maps.rs", "static FLOWS: u8 = 1;\n".to_owned(), true),
        ("a new source", "proxy-ebpf/src/leave.rs", String::new(), true),
        ("the manifest", "proxy-ebpf/Cargo.toml", "[package]\nname = \"proxy-ebpf\"\n\n".to_owned(), true),
        ("a dependency's checksum", "Cargo.lock", lock("\"ea\"", "\"eb\""), true),
        ("a macro crate's version", "Cargo.lock", lock("0.2.0", "0.2.2"), true),
        ("the release profile", "Cargo.toml", MANIFEST.replace("thin", "fat"), true),
        ("another profile", "Cargo.toml", MANIFEST.replace("debug = 1", "debug = 2"), false),
        ("a userspace dependency", "Cargo.lock", lock("1.0.0", "1.0.1"), false),
        ("a userspace source", "proxy-user/src/lib.rs", "//! Another.\n".to_owned(), false),
        ("the licence", "proxy-ebpf/LICENSE", "GPL\n".to_owned(), false),
        ("the same bytes again", "proxy-ebpf/src/main.rs", FILES[1].1.to_owned(), false),
    ];
    let repository = Repository::new("digest");
    let before = repository.sources();
    for (what, path, text, changes) in cases {
        let old = fs::read_to_string(repository.0.join(path)).ok();
        repository.write(path, &text);
        assert_eq!(repository.sources() != before, changes, "{what}");
        match old {
            Some(old) => repository.write(path, &old),
            None => fs::remove_file(repository.0.join(path)).unwrap(),
        }
        assert_eq!(repository.sources(), before, "{what}, undone");
    }
}

#[test]
fn every_flag_of_the_compiler_is_part_of_the_digest() {
    let repository = Repository::new("flags");
    for at in 0..FLAGS.len() {
        let mut flags = FLAGS.to_vec();
        flags[at] = "-Ctarget-cpu=v4";
        assert_ne!(made_of(&repository.0, &flags).unwrap(), repository.sources(), "without {}", FLAGS[at]);
    }
}

#[test]
fn an_object_is_used_only_with_its_own_stamp_sources_flags_and_tools() {
    let repository = Repository::new("matching");
    let object = object_path(Path::new(""));
    let object = object.to_str().unwrap();
    let stamp = |sources: String| Stamp {
        sources,
        object: digest(b"object"),
        toolchain: "rustc 1.96.0, bpf-linker 0.13.0".to_owned(),
    };
    let is_current = |tools: Option<&str>| is_current(&repository.0, tools.map(str::to_owned));
    let refused = |why: &str| {
        assert_eq!(matching(&repository.0).unwrap_err(), why);
        assert!(!is_current(None), "{why}");
        let said = to_embed(&repository.0, "release").unwrap_err();
        assert!(said.starts_with(why) && said.contains("cargo xtask build"), "{said}");
        assert_eq!(to_embed(&repository.0, "debug"), Ok(None));
    };
    refused("there is no eBPF object yet");
    let ours = stamp(repository.sources());
    write_stamp(&repository, &ours.render());
    refused("there is a stamp but no eBPF object");
    repository.write(object, "object");
    for profile in ["debug", "release"] {
        assert_eq!(to_embed(&repository.0, profile), Ok(Some((b"object".to_vec(), ours.clone()))));
    }
    assert!(is_current(Some(&ours.toolchain)) && is_current(None));
    assert!(!is_current(Some("rustc 1.97.0, bpf-linker 0.13.0")), "another compiler");
    repository.write(object, "another");
    refused("the eBPF object is not the one its stamp names");
    repository.write(object, "object");
    let others = "the eBPF object was built from other sources or with other flags than these";
    repository.write("proxy-ebpf/src/maps.rs", "static FLOWS: u8 = 1;\n");
    refused(others);
    repository.write("proxy-ebpf/src/maps.rs", FILES[2].1);
    write_stamp(&repository, &stamp(made_of(&repository.0, &["-Ctarget-cpu=v4"]).unwrap()).render());
    refused(others);
}

#[test]
fn names_and_lengths_of_files_are_part_of_the_digest() {
    let repository = Repository::new("names");
    let before = repository.sources();
    let [main, maps] = ["main.rs", "maps.rs"].map(|name| repository.0.join("proxy-ebpf/src").join(name));
    let other = maps.with_file_name("mapt.rs");
    fs::rename(&maps, &other).unwrap();
    assert_ne!(repository.sources(), before, "another name");
    fs::rename(&other, &maps).unwrap();
    // The second file as text in the first: the same bytes with names alone between them.
    let [first, second] = [&main, &maps].map(|path| fs::read_to_string(path).unwrap());
    fs::write(&main, format!("{first}proxy-ebpf/src/maps.rs\n{second}")).unwrap();
    fs::remove_file(&maps).unwrap();
    assert_ne!(repository.sources(), before, "one file in place of two");
}

#[test]
fn a_stamp_comes_back_as_written_with_its_toolchain_and_an_incomplete_one_is_none() {
    let repository = Repository::new("stamp");
    let stamp = |toolchain: &str| Stamp {
        sources: repository.sources(),
        object: digest(b"object"),
        toolchain: toolchain.to_owned(),
    };
    let [one, other] = ["rustc 1.95.0 (a b)", "rustc 1.96.0-nightly (c d)"].map(stamp);
    assert_ne!(one.render(), other.render());
    assert_eq!(Stamp::read(&repository.0), None);
    for stamp in [&one, &other] {
        write_stamp(&repository, &stamp.render());
        assert_eq!(Stamp::read(&repository.0).as_ref(), Some(stamp));
    }
    for field in ["sources", "object", "toolchain"] {
        let rest =
            one.render().lines().filter(|line| !line.starts_with(field)).collect::<Vec<_>>().join("\n");
        write_stamp(&repository, &rest);
        assert_eq!(Stamp::read(&repository.0), None, "without {field}");
    }
}

fn write_stamp(repository: &Repository, text: &str) {
    let path = stamp_path(Path::new(""));
    repository.write(path.to_str().unwrap(), text);
}

#[test]
fn every_lock_entry_of_aya_s_kernel_side_is_looked_at() {
    let root = crate::sh::root();
    let lock = fs::read_to_string(root.join("Cargo.lock")).unwrap();
    let entries: Vec<&str> =
        lock.split("[[package]]").filter(|entry| entry.contains("\nname = \"aya-ebpf")).collect();
    assert!(entries.len() >= 4, "{entries:?}");
    let repository = Repository::new("crates");
    for entry in entries {
        repository.write("Cargo.lock", &format!("[[package]]{entry}"));
        let before = repository.sources();
        repository.write(
            "Cargo.lock",
            &format!("[[package]]{}", entry.replacen("version = \"", "version = \"9", 1)),
        );
        assert_ne!(repository.sources(), before, "{entry}");
    }
}
