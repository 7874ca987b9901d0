//! A program under our care: its output goes to a file, it ends with the value that stands for it.

use std::fs::{self, File};
use std::io::Result;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

/// How long a program may take to obey SIGTERM before SIGKILL.
const GRACE: Duration = Duration::from_secs(3);

pub struct Child {
    process: Process,
    name: String,
    pub log: PathBuf,
}

impl Child {
    /// Starts `command`; what it prints goes to `directory/name.log`.
    pub fn start(name: &str, directory: &Path, command: &mut Command) -> anyhow::Result<Child> {
        let log = directory.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let process = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {name} ({})", command.get_program().to_string_lossy()))?;
        Ok(Child { process, name: name.to_owned(), log })
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// An error with the end of its log, if the program has ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => {
                anyhow::bail!("{} ended ({status}); its last words:\n{}", self.name, self.last_words())
            }
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self, longest: Duration) -> anyhow::Result<ExitStatus> {
        let ended = crate::ports::wait(longest, &self.name, || !matches!(self.process.try_wait(), Ok(None)));
        ended.with_context(|| format!("{} goes on; its last words:\n{}", self.name, self.last_words()))?;
        Ok(self.process.wait()?)
    }

    /// The last lines of its log.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.process.id() as i32).ok_or(std::io::ErrorKind::NotFound)?;
        Ok(kill_process(pid, signal)?)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.signal(Signal::TERM).is_err() {
            return;
        }
        let gone = crate::ports::wait(GRACE, &self.name, || !matches!(self.process.try_wait(), Ok(None)));
        if gone.is_err() {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}
