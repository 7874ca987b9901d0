//! One of the log's files, opened when its first line comes.

use super::LogError;
use super::file::{Keep, LogFile};
use crate::ops::flags::Severity;

/// Which lines a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Those of this severity and above.
    From(Severity),
    Only(Severity),
}

pub(super) struct Shelf {
    keep: Keep,
    max_size: u64,
    header: Option<String>,
    takes: Takes,
    pub(super) file: Option<LogFile>,
}

impl Shelf {
    /// `header` begins each new file, of `max_size` bytes at the most; 0 = any.
    pub(super) fn new(keep: Keep, max_size: u64, header: Option<String>, takes: Takes) -> Shelf {
        Shelf { keep, max_size, header, takes, file: None }
    }

    pub(super) fn takes(&self, severity: Severity) -> bool {
        match self.takes {
            Takes::From(lowest) => severity >= lowest,
            Takes::Only(one) => severity == one,
        }
    }

    /// A line that is lost here is lost: no other file was to have it as well, or all of them lack it.
    pub(super) fn counts(&self) -> bool {
        self.takes != Takes::From(Severity::Warning) && self.takes != Takes::From(Severity::Error)
    }

    pub(super) fn open(&mut self) -> Result<&mut LogFile, LogError> {
        match &mut self.file {
            Some(file) => Ok(file),
            none => Ok(none.insert(LogFile::open(self.keep.clone(), self.max_size, self.header.clone())?)),
        }
    }

    /// Takes a line in, and says how many were lost over it.
    pub(super) fn gather(&mut self, text: &str) -> u64 {
        match self.open() {
            Ok(file) => file.gather(text),
            Err(_) => 1,
        }
    }

    /// Writes what was gathered, and says how many lines were lost over it.
    pub(super) fn write(&mut self) -> u64 {
        self.file.as_mut().map_or(0, LogFile::write)
    }
}
