//! Where lines go: a bounded queue and one thread that writes. A full disk, a slow disk or a stderr that nobody
//! reads costs lines, which are counted, and never holds up a flow.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use prometheus::IntCounter;

use super::LogError;
use super::file::{BATCH, Batch};
use super::format::Head;
use super::shelf::Shelf;
use crate::ops::flags::Severity;

/// Lines that may wait for the writer.
const QUEUE: usize = 4096;
/// After a write the writer rests for so long: what is logged meanwhile goes out in one piece, and whoever logs
/// finds nobody to wake. Thousands of short flows a second cost a wake-up and a write each otherwise.
const REST: Duration = Duration::from_millis(10);
/// How long the end of the process waits for the writer.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub(super) struct Line {
    pub(super) text: String,
    pub(super) severity: Severity,
    pub(super) stderr: bool,
}

enum Order {
    Write(Line),
    Flush(SyncSender<()>),
}

pub(super) struct SinkConfig {
    /// The first has every line, or those of the lowest severity.
    pub(super) shelves: Vec<Shelf>,
    /// Of the lines that tell of lost ones.
    pub(super) head: Head,
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
        let mut shelves = config.shelves;
        if let Some(first) = shelves.first_mut() {
            first.open()?;
        }
        let has_file = !shelves.is_empty();
        let (orders, queue) = sync_channel(QUEUE);
        let sender = Sender { orders, lost: config.lost };
        let mut writer = Writer::new(shelves, config.head, sender.lost.clone());
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
    shelves: Vec<Shelf>,
    head: Head,
    lost: IntCounter,
    /// Lost lines that the log has told of.
    told: u64,
    /// stderr was told that the file cannot be written.
    cried: bool,
    stderr: Batch,
}

impl Writer {
    fn new(shelves: Vec<Shelf>, head: Head, lost: IntCounter) -> Writer {
        Writer { shelves, head, lost, told: 0, cried: false, stderr: Batch::default() }
    }

    fn run(&mut self, queue: &Receiver<Order>) {
        while let Ok(first) = queue.recv() {
            let mut next = Some(first);
            while let Some(order) = next {
                match order {
                    Order::Write(line) => self.gather(&line),
                    Order::Flush(done) => {
                        self.write();
                        let _ = done.try_send(());
                    }
                }
                next = queue.try_recv().ok();
            }
            self.write();
            self.tell_of_lost_lines();
            thread::sleep(REST);
        }
    }

    fn gather(&mut self, line: &Line) {
        for shelf in self.shelves.iter_mut().filter(|shelf| shelf.takes(line.severity)) {
            let lost = shelf.gather(&line.text);
            self.lost.inc_by(if shelf.counts() { lost } else { 0 });
        }
        if line.stderr {
            self.stderr.text.push_str(&line.text);
            self.stderr.lines += 1;
            self.stderr.kept += u64::from(!self.shelves.is_empty());
        }
        if self.stderr.text.len() >= BATCH {
            self.write();
        }
    }

    fn write(&mut self) {
        for shelf in &mut self.shelves {
            let lost = shelf.write();
            self.lost.inc_by(if shelf.counts() { lost } else { 0 });
        }
        let batch = std::mem::take(&mut self.stderr);
        if !batch.text.is_empty() && std::io::stderr().write_all(batch.text.as_bytes()).is_err() {
            self.lost.inc_by(batch.lines - batch.kept);
        }
    }

    fn tell_of_lost_lines(&mut self) {
        let lost = self.lost.get();
        if lost == self.told {
            return;
        }
        let lines = lost - self.told;
        let words = format!("{lines} log lines were lost because nobody took them or there was no room");
        let text = self.head.own_line('W', &words);
        let said = match self.shelves.first_mut() {
            Some(first) => first.gather(&text) + first.write() == 0,
            None => std::io::stderr().write_all(text.as_bytes()).is_ok(),
        };
        if said {
            (self.told, self.cried) = (lost, false);
        } else if let Some(cry) = self.cry().filter(|_| !self.cried) {
            // The lines themselves are told of with what is lost until writing works.
            self.cried = std::io::stderr().write_all(cry.as_bytes()).is_ok();
        }
    }

    /// What stderr is told while the file cannot be written.
    fn cry(&self) -> Option<String> {
        let file = self.shelves.first()?.file.as_ref()?;
        let (path, error) = (file.path(), file.failed()?);
        let words = format!(
            "The log file {path:?} takes no lines ({error}), which are lost meanwhile: make room there, or choose \
             another --log-file or --logtostderr"
        );
        Some(self.head.own_line('E', &words))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::ops::log::file::Keep;
    use crate::ops::log::shelf::Takes;

    fn shelf(path: PathBuf, max_size: u64) -> Shelf {
        Shelf::new(Keep::At(path), max_size, None, Takes::From(Severity::Info))
    }

    fn config(path: PathBuf, max_size: u64) -> SinkConfig {
        SinkConfig {
            shelves: vec![shelf(path, max_size)],
            head: Head::default(),
            lost: IntCounter::new("lost", "lost").unwrap(),
        }
    }

    fn line(text: &str) -> Line {
        Line { text: text.to_owned(), severity: Severity::Info, stderr: false }
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
    fn what_is_logged_while_the_writer_rests_is_written_without_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let sink = Sink::start(config(path.clone(), 0)).unwrap();
        let mut expected = String::new();
        for number in 0..500 {
            expected += &format!("{number}\n");
            sink.sender().send(line(&format!("{number}\n")));
        }
        let until = std::time::Instant::now() + Duration::from_secs(5);
        while std::fs::read_to_string(&path).unwrap() != expected {
            assert!(std::time::Instant::now() < until, "{:?}", std::fs::read_to_string(&path));
            thread::sleep(Duration::from_millis(1));
        }
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

    /// The file is on a full disk until it is set aside, for a line that is too long for what is left of it.
    #[test]
    fn lines_that_a_full_disk_cost_are_told_when_writing_works_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let lost = IntCounter::new("lost", "lost").unwrap();
        let mut writer = Writer::new(vec![shelf(path.clone(), 200)], Head::default(), lost);
        let mut round = |texts: &[&str]| {
            texts.iter().for_each(|text| writer.gather(&line(text)));
            writer.write();
            writer.tell_of_lost_lines();
            (writer.lost.get(), writer.told, writer.cried)
        };
        assert_eq!(round(&["one\n", "two\n"]), (2, 0, true));
        assert_eq!(round(&["three\n"]), (3, 0, true));
        let long = "x".repeat(200) + "\n";
        assert_eq!(round(&[&long]), (3, 3, false));
        assert_eq!(round(&["as usual\n"]), (3, 3, false));
        let text = std::fs::read_to_string(&path).unwrap();
        let first = text.lines().next().unwrap();
        assert!(first.starts_with('W') && first.contains(" sink.rs:"), "{first}");
        assert!(first.contains("] 3 log lines were lost") && text.ends_with("\nas usual\n"), "{text:?}");
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
