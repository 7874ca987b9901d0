//! The log's file: written in batches, set aside when it is full, begun anew when somebody else set it aside.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::LogError;
use super::directory::Directory;

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

/// Where lines of a file are kept.
#[derive(Debug, Clone)]
pub(super) enum Keep {
    At(PathBuf),
    In(Directory),
}

impl Keep {
    fn open(&self) -> Result<(PathBuf, (File, Metadata)), LogError> {
        match self {
            Keep::At(path) => match open(path) {
                Ok(file) => Ok((path.clone(), file)),
                Err(source) => Err(LogError::File { path: path.clone(), source }),
            },
            Keep::In(directory) => directory.begin(open).map_err(LogError::Directory),
        }
    }
}

pub(super) struct LogFile {
    keep: Keep,
    path: PathBuf,
    max_size: u64,
    header: Option<String>,
    file: File,
    identity: (u64, u64),
    /// Gathered bytes included.
    size: u64,
    batch: Batch,
    /// The last write failed half way: the file may end within a line.
    torn: bool,
    failed: Option<io::Error>,
}

impl LogFile {
    pub(super) fn open(keep: Keep, max_size: u64, header: Option<String>) -> Result<LogFile, LogError> {
        let (path, (file, there)) = keep.open()?;
        let mut log = LogFile {
            keep,
            path,
            max_size,
            header,
            file,
            identity: identity(&there),
            size: there.len(),
            batch: Batch::default(),
            torn: false,
            failed: None,
        };
        log.begin();
        Ok(log)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Why the last write failed, if it did.
    pub(super) fn failed(&self) -> Option<&io::Error> {
        self.failed.as_ref()
    }

    /// Whether its path leads elsewhere or nowhere: somebody, such as logrotate, set it aside.
    fn is_moved(&self) -> bool {
        match std::fs::metadata(&self.path) {
            Ok(there) => identity(&there) != self.identity,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Goes on with whatever its path leads to now.
    fn reopen(&mut self) -> io::Result<()> {
        let opened = open(&self.path)?;
        self.go_on(opened);
        Ok(())
    }

    fn go_on(&mut self, (file, there): (File, Metadata)) {
        (self.file, self.identity) = (file, identity(&there));
        (self.size, self.torn) = (there.len(), false);
        self.begin();
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
            let begun = if self.is_moved() { self.reopen() } else { self.set_aside() };
            if let Err(error) = begun {
                self.failed = Some(error);
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
        if self.is_moved() {
            match self.reopen() {
                Ok(()) => self.size += batch.text.len() as u64,
                // Nobody will ever read what has no name any more.
                Err(error) if self.file.metadata().is_ok_and(|file| file.nlink() == 0) => {
                    self.failed = Some(error);
                    self.size -= batch.text.len() as u64;
                    return batch.lines;
                }
                Err(_) => {}
            }
        }
        let torn = if self.torn { "\n" } else { "" };
        match self.file.write_all(torn.as_bytes()).and_then(|()| self.file.write_all(batch.text.as_bytes())) {
            Ok(()) => {
                self.size += torn.len() as u64;
                self.torn = false;
                self.failed = None;
                0
            }
            Err(error) => {
                self.failed = Some(error);
                self.size -= batch.text.len() as u64;
                let there = self.file.metadata().map_or(self.size, |file| file.len());
                self.torn |= there > self.size;
                self.size = there;
                batch.lines
            }
        }
    }

    /// Begins a new file: in a directory beside the full one, else in place of it, which is `FILE.old` then.
    fn set_aside(&mut self) -> io::Result<()> {
        if let Keep::In(directory) = &self.keep {
            let (path, opened) = directory.begin(open)?;
            self.path = path;
            self.go_on(opened);
            return Ok(());
        }
        let mut old = self.path.clone().into_os_string();
        old.push(".old");
        std::fs::rename(&self.path, old)?;
        self.reopen()
    }
}

fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    let there = file.metadata()?;
    Ok((file, there))
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_renamed_or_removed_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let [path, aside] = ["log", "log.1"].map(|name| dir.path().join(name));
        let mut log = LogFile::open(Keep::At(path.clone()), 0, Some("header\n".to_owned())).unwrap();
        assert_eq!(log.gather("one\n") + log.write(), 0);
        std::fs::rename(&path, &aside).unwrap();
        assert_eq!(log.gather("two\n") + log.write(), 0);
        assert_eq!(std::fs::read_to_string(&aside).unwrap(), "header\none\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "header\ntwo\n");
        assert_eq!(log.size, "header\ntwo\n".len() as u64);
        // As logrotate's `create`.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "theirs\n").unwrap();
        assert_eq!(log.gather("three\n") + log.write(), 0);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "theirs\nthree\n");
    }

    #[test]
    fn a_full_file_that_was_removed_is_begun_anew_and_what_cannot_be_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/log");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let mut log = LogFile::open(Keep::At(path.clone()), 10, None).unwrap();
        assert_eq!(log.gather("one two\n") + log.write(), 0);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(log.gather("three four\n") + log.write(), 0);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three four\n");
        assert!(log.failed().is_none());
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        // It overflows the file; and it does not.
        for max_size in [10, 0] {
            log.max_size = max_size;
            assert_eq!(log.gather("lost\n") + log.write(), 1, "{max_size}");
            assert_eq!(log.failed().map(io::Error::kind), Some(io::ErrorKind::NotFound));
        }
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        assert_eq!(log.gather("five\n") + log.write(), 0);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "five\n");
        assert!(log.failed().is_none());
    }

    #[test]
    fn half_a_line_on_a_full_disk_is_ended_before_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::open(Keep::At(path.clone()), 0, Some("header\n".to_owned())).unwrap();
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
