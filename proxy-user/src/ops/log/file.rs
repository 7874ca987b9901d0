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
    /// The last write failed half way: the file may end within a line.
    torn: bool,
}

impl LogFile {
    pub(super) fn open(path: PathBuf, max_size: u64, header: Option<String>) -> Result<LogFile, LogError> {
        let open = || -> std::io::Result<(File, u64)> {
            let file = OpenOptions::new().append(true).create(true).open(&path)?;
            let size = file.metadata()?.len();
            Ok((file, size))
        };
        let (file, size) = open().map_err(|source| LogError::File { path: path.clone(), source })?;
        let mut log = LogFile { path, max_size, header, file, size, batch: Batch::default(), torn: false };
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
        if batch.text.is_empty() {
            return 0;
        }
        let torn = if self.torn { "\n" } else { "" };
        match self.file.write_all(torn.as_bytes()).and_then(|()| self.file.write_all(batch.text.as_bytes())) {
            Ok(()) => {
                self.size += torn.len() as u64;
                self.torn = false;
                0
            }
            Err(_) => {
                self.size -= batch.text.len() as u64;
                let there = self.file.metadata().map_or(self.size, |file| file.len());
                self.torn |= there > self.size;
                self.size = there;
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
        (self.size, self.torn) = (0, false);
        self.begin();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_on_a_full_disk_is_ended_before_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(path.clone(), 0, Some("header\n".to_owned())).unwrap();
        let fails = |log: &mut LogFile, part: &str| {
            let works = std::mem::replace(&mut log.file, File::open(&path).unwrap());
            (&works).write_all(part.as_bytes()).unwrap();
            assert_eq!(log.gather("lost\n") + log.write(), 1);
            log.file = works;
        };
        fails(&mut log, "");
        assert_eq!(log.gather("one\n") + log.write(), 0);
        fails(&mut log, "lo");
        fails(&mut log, "");
        assert_eq!(log.gather("two\n") + log.write(), 0);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "header\none\nlo\ntwo\n");
        assert_eq!(log.size, text.len() as u64);
    }
}
