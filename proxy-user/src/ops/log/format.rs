//! One line per event: `Lmmdd hh:mm:ss.uuuuuu pid file:line] message key=value`.

use std::fmt::{Debug, Write};
use std::panic::Location;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// A longer line is cut: nobody may fill the queue with one event.
const LINE_MAX: usize = 16 << 10;
/// Asking for it is a system call.
static PID: LazyLock<u32> = LazyLock::new(std::process::id);

/// What stands before each line.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Head {
    /// Nothing.
    pub(super) skip: bool,
    /// The source file is named with its directory.
    pub(super) directories: bool,
}

impl Head {
    fn write(self, letter: char, path: &str, line: u32, out: &mut String) {
        if !self.skip {
            header(letter, path, line, self.directories, SystemTime::now(), out);
        }
    }

    /// A line of the log's own, which goes through no queue.
    #[track_caller]
    pub(super) fn own_line(self, letter: char, words: &str) -> String {
        let (mut text, from) = (String::new(), Location::caller());
        self.write(letter, from.file(), from.line(), &mut text);
        text.push_str(words);
        text.push('\n');
        text
    }
}

pub(super) fn line(event: &Event<'_>, head: Head) -> String {
    let mut text = String::with_capacity(320);
    let metadata = event.metadata();
    let letter = match *metadata.level() {
        Level::ERROR => 'E',
        Level::WARN => 'W',
        _ => 'I',
    };
    head.write(letter, metadata.file().unwrap_or("?"), metadata.line().unwrap_or(0), &mut text);
    let mut words = Words { message: String::new(), fields: String::with_capacity(160) };
    event.record(&mut words);
    text.push_str(&words.message);
    text.push_str(&words.fields);
    if text.len() > LINE_MAX {
        let mut end = LINE_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    // One event, one line: a peer's text must not be able to forge a line.
    if text.contains(['\n', '\r']) {
        text = text.replace(['\n', '\r'], " ");
    }
    text.push('\n');
    text
}

fn header(letter: char, path: &str, line: u32, directories: bool, now: SystemTime, out: &mut String) {
    let Moment { month, day, hour, minute, second, micros, .. } = Moment::from(now);
    let mut from_end = path.rsplitn(3, '/');
    let (file, directory) = (from_end.next().unwrap_or("?"), from_end.next());
    let place = match directory.filter(|_| directories) {
        Some(directory) => format!("{directory}/{file}"),
        None => file.to_owned(),
    };
    let _ = write!(
        out,
        "{letter}{month:02}{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06} {:7} {place}:{line}] ",
        *PID,
    );
}

/// A moment in UTC, as people write it.
pub(super) struct Moment {
    pub(super) year: u64,
    pub(super) month: u64,
    pub(super) day: u64,
    pub(super) hour: u64,
    pub(super) minute: u64,
    pub(super) second: u64,
    micros: u32,
}

impl From<SystemTime> for Moment {
    fn from(now: SystemTime) -> Moment {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let seconds = since.as_secs();
        let (year, month, day) = civil(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        Moment { year, month, day, hour, minute, second, micros: since.subsec_micros() }
    }
}

/// Year, month and day in UTC of a day counted from 1970-01-01 (Howard Hinnant's civil calendar).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let of_era = shifted % 146_097;
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (shifted / 146_097 * 400 + year + u64::from(month < 3), month, day)
}

struct Words {
    message: String,
    fields: String,
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let _ = write!(self.fields, " {}={:?}", field.name(), value.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (59, (1970, 3, 1)),
            (789, (1972, 2, 29)),
            (11_016, (2000, 2, 29)),
            (20_780, (2026, 11, 23)),
        ] {
            assert_eq!(civil(days), date, "{days}");
        }
    }
}
