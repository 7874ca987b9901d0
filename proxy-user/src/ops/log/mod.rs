//! The log: klog's flags and line format; a writer that never holds up whoever logs.

mod causes;
mod directory;
mod file;
mod format;
mod shelf;
mod short;
mod sink;
pub(in crate::ops) mod verbosity;

use std::fmt;
use std::path::PathBuf;

use prometheus::IntCounter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use super::flags::{LogOptions, Severity};
pub use causes::{status, with_causes};
use directory::Directory;
use file::Keep;
use format::Head;
use shelf::{Shelf, Takes};
pub use short::{short, within};
use sink::{Line, Sink, SinkConfig};
use verbosity::Verbosity;

/// Bytes of a file in a directory, as klog.
const DIRECTORY_MAX: u64 = 1800 << 20;

/// The log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("cannot open the log file {path:?}: {source}; choose another --log-file or log to stderr")]
    File { path: PathBuf, source: std::io::Error },
    #[error("neither --log-dir nor the directory for temporary files takes a log file: {0}; log to stderr")]
    Directory(std::io::Error),
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(std::io::Error),
    #[error("cannot count lost log lines: {0}")]
    Counter(prometheus::Error),
    #[error("a log was set up before")]
    Twice,
}

/// Keeps the log's writer; dropping it writes what waits, for at most a second.
#[derive(Debug)]
pub struct LogGuard {
    sink: Sink,
}

impl LogGuard {
    /// Lines that were dropped because nobody took them; to be registered with the metrics.
    pub fn lost(&self) -> IntCounter {
        self.sink.lost()
    }
}

/// Sets up the log of the whole process.
pub fn init(program: &str, options: &LogOptions) -> Result<LogGuard, LogError> {
    let head = Head { skip: options.skip_headers, directories: options.add_dir_header };
    let lost = IntCounter::new("konduit_log_lines_lost_total", "Log lines dropped because nobody took them.")
        .map_err(LogError::Counter)?;
    let sink = Sink::start(SinkConfig { shelves: shelves(program, options), head, lost })?;
    let layer = KlogLayer {
        verbosity: Verbosity::new(options.v, &options.vmodule.0),
        head,
        stderr_from: stderr_from(options, sink.has_file()),
        sender: sink.sender(),
    };
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))
        .map_err(|_| LogError::Twice)?;
    Ok(LogGuard { sink })
}

/// The files that lines go to. klog has one for each severity in a directory, and a line in all of lower ones too; its
/// `--log-file-max-size` is of `--log-file` alone.
fn shelves(program: &str, options: &LogOptions) -> Vec<Shelf> {
    let header = (!options.skip_log_headers)
        .then(|| format!("Log of {program}. Lines: Lmmdd hh:mm:ss.uuuuuu pid file:line] message\n"));
    let shelf = |keep, max_size, takes| Shelf::new(keep, max_size, header.clone(), takes);
    match (options.to_stderr, options.file.as_str(), options.dir.as_str()) {
        (true, ..) | (_, "", "") => Vec::new(),
        (_, "", dir) => [Severity::Info, Severity::Warning, Severity::Error]
            .map(|severity| {
                let takes = match options.one_output {
                    true => Takes::Only(severity),
                    false => Takes::From(severity),
                };
                shelf(Keep::In(Directory::new(dir, program, severity)), DIRECTORY_MAX, takes)
            })
            .into(),
        (_, file, _) => {
            let max_size = options.file_max_size.saturating_mul(1 << 20);
            vec![shelf(Keep::At(file.into()), max_size, Takes::From(Severity::Info))]
        }
    }
}

/// The lowest severity that goes to stderr.
fn stderr_from(options: &LogOptions, has_file: bool) -> Severity {
    match (has_file, options.also_to_stderr) {
        (false, _) if options.to_stderr && options.legacy_stderr_threshold => Severity::Info,
        (false, _) if options.to_stderr => options.stderr_threshold,
        // Told to log elsewhere, but not where: stderr is better than nowhere.
        (false, _) => Severity::Info,
        (true, true) => options.also_to_stderr_threshold.min(options.stderr_threshold),
        (true, false) => options.stderr_threshold,
    }
}

struct KlogLayer {
    verbosity: Verbosity,
    head: Head,
    stderr_from: Severity,
    sender: sink::Sender,
}

impl<S: Subscriber> Layer<S> for KlogLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.verbosity.shows(metadata)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let severity = match *metadata.level() {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warning,
            _ => Severity::Info,
        };
        let text = format::line(event, self.head);
        self.sender.send(Line { text, severity, stderr: severity >= self.stderr_from });
    }
}

impl fmt::Debug for KlogLayer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("KlogLayer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
