//! The loader and the shared libraries that an ELF file needs, found where the loader looks for them itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, bail};
use object::Endianness;
use object::elf::{DT_NEEDED, EM_AARCH64, EM_X86_64};
use object::read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _};

const GLIBC: &str = "LGPL-2.1-or-later";
const LIBGCC: &str = "GPL-3.0-or-later WITH GCC-exception-3.1";

/// All that our programs may need. Whatever else appears here one day is to be looked at before it is passed on.
const KNOWN: [(&str, &str); 3] = [("libc.so.6", GLIBC), ("libm.so.6", GLIBC), ("libgcc_s.so.1", LIBGCC)];

/// What a program needs beside itself to start.
pub(super) struct Needs {
    /// As the OCI image specification calls it, which is as Go does.
    pub(super) architecture: &'static str,
    /// Bytes by path; none for a static program.
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// Theirs, by SPDX's names.
    pub(super) licences: BTreeSet<&'static str>,
}

impl Needs {
    /// # Errors
    /// It is no ELF file for Linux on a known architecture, or a library of it is not on this machine.
    pub(super) fn of(program: &[u8]) -> Result<Needs> {
        let elf = Elf::read(program)?;
        let (architecture, triple) = match elf.machine {
            EM_X86_64 => ("amd64", "x86_64-linux-gnu"),
            EM_AARCH64 => ("arm64", "aarch64-linux-gnu"),
            other => bail!("it is for a machine that images were never made for (ELF machine {other})"),
        };
        let mut needs = Needs { architecture, files: BTreeMap::new(), licences: BTreeSet::new() };
        let Some(loader) = elf.loader else { return Ok(needs) };
        let bytes = fs::read(&loader).with_context(|| format!("its loader {loader} cannot be read"))?;
        needs.files.insert(loader.clone(), bytes);
        needs.licences.insert(GLIBC);
        // The C library needs the loader as a library: that one is there already.
        let mut seen = BTreeSet::from_iter(loader.rsplit('/').next().map(str::to_owned));
        let mut wanted = elf.needed;
        while let Some(name) = wanted.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            let Some((_, licence)) = KNOWN.iter().find(|(known, _)| *known == name) else {
                bail!(
                    "it needs {name}, whose licence {} does not know; if that is a part of glibc, make images on \
                     version 2.34 or newer, before which more was loaded by name at run time",
                    file!()
                );
            };
            let (path, bytes, more) = find(&name, elf.machine, triple)?;
            needs.files.insert(path, bytes);
            needs.licences.insert(licence);
            wanted.extend(more);
        }
        Ok(needs)
    }
}

/// The first library of that name for that machine, as its path, its bytes and what it needs itself. The path is the
/// one behind links of directories (`/lib` to `/usr/lib`), which loaders know on every distribution.
fn find(name: &str, machine: u16, triple: &str) -> Result<(String, Vec<u8>, Vec<String>)> {
    let triples = [format!("/lib/{triple}"), format!("/usr/lib/{triple}")];
    let others = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"].map(str::to_owned);
    for folder in triples.into_iter().chain(others).filter_map(|folder| fs::canonicalize(folder).ok()) {
        let path = folder.join(name);
        let Ok(bytes) = fs::read(&path) else { continue };
        // Another machine's library of the same name may lie there.
        let Ok(elf) = Elf::read(&bytes) else { continue };
        if elf.machine == machine {
            return Ok((path.display().to_string(), bytes, elf.needed));
        }
    }
    bail!("{name} lies in none of the loader's own directories on this machine")
}

/// What of an ELF file says what it needs.
struct Elf {
    machine: u16,
    loader: Option<String>,
    needed: Vec<String>,
}

impl Elf {
    fn read(bytes: &[u8]) -> Result<Elf> {
        let file = ElfFile64::<Endianness>::parse(bytes).context("it is no 64-bit ELF file")?;
        let endian = file.endian();
        let mut loader = None;
        for segment in file.elf_program_headers() {
            if let Some(path) = segment.interpreter(endian, bytes)? {
                loader = Some(String::from_utf8(path.to_vec())?);
            }
        }
        let table = file.elf_dynamic_table()?;
        let needed = table.iter().filter(|entry| entry.tag == DT_NEEDED);
        let needed = needed.map(|entry| Ok(String::from_utf8(table.string(entry)?.to_vec())?));
        Ok(Elf {
            machine: file.elf_header().e_machine(endian),
            loader,
            needed: needed.collect::<Result<_>>()?,
        })
    }
}
