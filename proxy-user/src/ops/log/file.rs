//! The log's file: written in batches, set aside when it is full.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use super::LogError;

/// Bytes that are written at once however many wait.
pub(super) const BATCH: usize = 64 << 10;

/// Lines that were taken from the queue and not written yet.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) text: String,
    pub(super) lines: u64,
    /// Those of them that are in a file, too.
    pub(super) kept: u64,
}

pub(super) struct LogFile {
    path: PathBuf,
    max_size: u64,
    header: Option<String>,
    file: File,
    /// Gathered bytes included.
    size: u64,
    batch: Batch,
}

impl LogFile {
    pub(super) fn open(path: PathBuf, max_size: u64, header: Option<String>) -> Result<LogFile, LogError> {
        let open = || -> std::io::Result<(File, u64)> {
            let file = OpenOptions::new().append(true).create(true).open(&path)?;
            let size = file.metadata()?.len();
            Ok((file, size))
        };
        let (file, size) = open().map_err(|source| LogError::File { path: path.clone(), source })?;
        let mut log = LogFile { path, max_size, header, file, size, batch: Batch::default() };
        log.begin();
        Ok(log)
    }

    /// The header, at the top of an empty file.
    fn begin(&mut self) {
        if let Some(header) = self.header.clone().filter(|_| self.size == 0) {
            self.size += header.len() as u64;
            let _ = self.file.write_all(header.as_bytes());
        }
    }

    /// Takes a line in, and says how many were lost over it.
    pub(super) fn gather(&mut self, line: &str) -> u64 {
        let mut lost = 0;
        if self.max_size > 0 && self.size + line.len() as u64 > self.max_size {
            lost += self.write();
            if self.set_aside().is_err() {
                return lost + 1;
            }
        }
        self.batch.text.push_str(line);
        self.batch.lines += 1;
        self.size += line.len() as u64;
        if self.batch.text.len() >= BATCH { lost + self.write() } else { lost }
    }

    /// Writes what was gathered, and says how many lines were lost over it.
    pub(super) fn write(&mut self) -> u64 {
        let batch = std::mem::take(&mut self.batch);
        match self.file.write_all(batch.text.as_bytes()) {
            Ok(()) => 0,
            Err(_) => {
                self.size -= batch.text.len() as u64;
                batch.lines
            }
        }
    }

    /// Renames the full file to `FILE.old`, in place of a former one, and begins a new one.
    fn set_aside(&mut self) -> std::io::Result<()> {
        let mut old = self.path.clone().into_os_string();
        old.push(".old");
        std::fs::rename(&self.path, old)?;
        self.file = OpenOptions::new().append(true).create(true).open(&self.path)?;
        self.size = 0;
        self.begin();
        Ok(())
    }
}
