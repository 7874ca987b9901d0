//! Where lines go: a bounded queue and one thread that writes. A full disk, a slow disk or a stderr that nobody
//! reads costs lines, which are counted, and never holds up a flow.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use prometheus::IntCounter;

use super::LogError;

/// Lines that may wait for the writer.
const QUEUE: usize = 4096;
/// How long the end of the process waits for the writer.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub(super) struct Line {
    pub(super) text: String,
    pub(super) stderr: bool,
}

enum Order {
    Write(Line),
    Flush(SyncSender<()>),
}

pub(super) struct SinkConfig {
    pub(super) file: Option<PathBuf>,
    /// Written at the top of each new file.
    pub(super) header: Option<String>,
    /// Bytes after which the file is set aside; 0 = never.
    pub(super) max_size: u64,
    pub(super) lost: IntCounter,
}

/// Puts lines into the queue, or counts them as lost.
#[derive(Clone)]
pub(super) struct Sender {
    orders: SyncSender<Order>,
    lost: IntCounter,
}

impl Sender {
    pub(super) fn send(&self, line: Line) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.orders.try_send(Order::Write(line))
        {
            self.lost.inc();
        }
    }
}

pub(super) struct Sink {
    sender: Sender,
    has_file: bool,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Sink").finish_non_exhaustive()
    }
}

impl Sink {
    pub(super) fn start(config: SinkConfig) -> Result<Sink, LogError> {
        let file = match config.file {
            Some(path) => Some(LogFile::open(path, config.max_size, config.header)?),
            None => None,
        };
        let has_file = file.is_some();
        let (orders, queue) = sync_channel(QUEUE);
        let sender = Sender { orders, lost: config.lost };
        let mut writer = Writer { file, lost: sender.lost.clone(), told: 0 };
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writer.run(&queue))
            .map_err(LogError::Thread)?;
        Ok(Sink { sender, has_file })
    }

    pub(super) fn sender(&self) -> Sender {
        self.sender.clone()
    }

    pub(super) fn lost(&self) -> IntCounter {
        self.sender.lost.clone()
    }

    pub(super) fn has_file(&self) -> bool {
        self.has_file
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let (done, wait) = sync_channel(1);
        if self.sender.orders.try_send(Order::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(LAST_WORDS);
        }
    }
}

struct Writer {
    file: Option<LogFile>,
    lost: IntCounter,
    /// Lost lines that the log has told of.
    told: u64,
}

impl Writer {
    fn run(&mut self, queue: &Receiver<Order>) {
        while let Ok(order) = queue.recv() {
            match order {
                Order::Write(line) => {
                    self.write(&line);
                    self.tell_of_lost_lines();
                }
                Order::Flush(done) => {
                    let _ = done.try_send(());
                }
            }
        }
    }

    fn write(&mut self, line: &Line) {
        let to_file = self.file.as_mut().map(|file| file.write(line.text.as_bytes()));
        if let Some(Err(_)) = to_file {
            self.lost.inc();
        }
        if line.stderr && std::io::stderr().write_all(line.text.as_bytes()).is_err() && to_file.is_none() {
            self.lost.inc();
        }
    }

    fn tell_of_lost_lines(&mut self) {
        let lost = self.lost.get();
        if lost > self.told {
            let text =
                format!("W log: {} lines were lost because nobody took them in time\n", lost - self.told);
            self.told = lost;
            self.write(&Line { text, stderr: self.file.is_none() });
            self.told = self.lost.get();
        }
    }
}

struct LogFile {
    path: PathBuf,
    max_size: u64,
    header: Option<String>,
    file: File,
    size: u64,
}

impl LogFile {
    fn open(path: PathBuf, max_size: u64, header: Option<String>) -> Result<LogFile, LogError> {
        let open = || -> std::io::Result<(File, u64)> {
            let file = OpenOptions::new().append(true).create(true).open(&path)?;
            let size = file.metadata()?.len();
            Ok((file, size))
        };
        let (file, size) = open().map_err(|source| LogError::File { path: path.clone(), source })?;
        let mut log = LogFile { path, max_size, header, file, size };
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

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.max_size > 0 && self.size + bytes.len() as u64 > self.max_size {
            self.set_aside()?;
        }
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config(path: PathBuf, max_size: u64) -> SinkConfig {
        SinkConfig {
            file: Some(path),
            header: None,
            max_size,
            lost: IntCounter::new("lost", "lost").unwrap(),
        }
    }

    fn line(text: &str) -> Line {
        Line { text: text.to_owned(), stderr: false }
    }

    #[test]
    fn a_dropped_sink_has_written_what_waited() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let sink = Sink::start(config(path.clone(), 0)).unwrap();
        sink.sender().send(line("one\n"));
        sink.sender().send(line("two\n"));
        drop(sink);
        assert_eq!(std::fs::read_to_string(path).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn a_full_file_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let sink = Sink::start(config(path.clone(), 10)).unwrap();
        for text in ["12345678\n", "next\n", "more\n"] {
            sink.sender().send(line(text));
        }
        drop(sink);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "next\nmore\n");
        assert_eq!(std::fs::read_to_string(dir.path().join("log.old")).unwrap(), "12345678\n");
    }

    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        let config = config(PathBuf::from("/dev/full"), 0);
        let lost = config.lost.clone();
        let sink = Sink::start(config).unwrap();
        sink.sender().send(line("gone\n"));
        drop(sink);
        assert!(lost.get() >= 1);
    }

    #[test]
    fn a_writer_that_is_stuck_holds_up_nobody() {
        let (orders, queue) = sync_channel(QUEUE);
        let sender = Sender { orders, lost: IntCounter::new("lost", "lost").unwrap() };
        for _ in 0..QUEUE + 5 {
            sender.send(line("x\n"));
        }
        assert_eq!(sender.lost.get(), 5);
        drop(queue);
    }
}
