//! klog's names in `--log-dir`: `PROGRAM.HOST.USER.log.SEVERITY.DATE-TIME.PID`, and the link `PROGRAM.SEVERITY` to the
//! newest of them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::format::Moment;
use crate::net::own_name;
use crate::ops::flags::Severity;

/// Where the files of one severity go, and what they are called.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    /// Tried one after the other.
    places: [PathBuf; 2],
    program: String,
    host: String,
    user: String,
    severity: &'static str,
}

impl Directory {
    /// As klog, which takes the place for temporary files when the one that was asked for takes none.
    pub(super) fn new(place: &str, program: &str, severity: Severity) -> Directory {
        let severity = match severity {
            Severity::Info => "INFO",
            Severity::Warning => "WARNING",
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        };
        Directory {
            places: [place.into(), std::env::temp_dir()],
            program: program.to_owned(),
            host: host().unwrap_or_else(|| "unknownhost".to_owned()),
            user: user().unwrap_or_else(|| "unknownuser".to_owned()),
            severity,
        }
    }

    /// A new file, named after this moment, and its link.
    ///
    /// # Errors
    /// The last place takes no file.
    pub(super) fn begin<T>(&self, open: impl Fn(&Path) -> io::Result<T>) -> io::Result<(PathBuf, T)> {
        let name = self.name(SystemTime::now());
        let mut last = io::ErrorKind::NotFound.into();
        for place in &self.places {
            let path = place.join(&name);
            match open(&path) {
                Ok(file) => {
                    let link = place.join(format!("{}.{}", self.program, self.severity));
                    // Without it the file is there all the same.
                    let _ = std::fs::remove_file(&link);
                    let _ = std::os::unix::fs::symlink(&name, &link);
                    return Ok((path, file));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn name(&self, now: SystemTime) -> String {
        let Moment { year, month, day, hour, minute, second, .. } = Moment::from(now);
        format!(
            "{}.{}.{}.log.{}.{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}.{}",
            self.program,
            self.host,
            self.user,
            self.severity,
            std::process::id(),
        )
    }
}

/// Up to its first dot.
fn host() -> Option<String> {
    let name = own_name()?;
    let name = name.split('.').next()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// By the number of the user, else by the environment, as Go's os/user has it.
fn user() -> Option<String> {
    let number = rustix::process::getuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let listed = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid) = (fields.next()?, fields.next()?, fields.next()?);
        (uid.parse() == Ok(number)).then(|| name.to_owned())
    });
    let told =
        || std::env::var("USER").ok().filter(|name| !name.is_empty() && std::env::var_os("HOME").is_some());
    listed.or_else(told).map(|name| name.replace('/', "_"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn files_have_klogs_names() {
        let directory = Directory {
            places: [PathBuf::new(), PathBuf::new()],
            program: "proxy-server".into(),
            host: "master-1".into(),
            user: "root".into(),
            severity: "INFO",
        };
        let at = |seconds| directory.name(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let pid = std::process::id();
        for (seconds, time) in [(0, "19700101-000000"), (1_709_210_096, "20240229-123456")] {
            assert_eq!(at(seconds), format!("proxy-server.master-1.root.log.INFO.{time}.{pid}"));
        }
    }

    #[test]
    fn a_place_that_takes_no_file_is_left_for_the_next_and_the_link_is_the_newests() {
        let ground = tempfile::tempdir().unwrap();
        let mut directory = Directory::new("/nonexistent", "x", Severity::Error);
        directory.places[1] = ground.path().to_owned();
        let link = ground.path().join("x.ERROR");
        for pid in ["1", "2"] {
            directory.user = pid.to_owned();
            let (path, ()) = directory.begin(|path| std::fs::write(path, pid)).unwrap();
            assert_eq!(path.parent(), Some(ground.path()));
            assert_eq!(std::fs::read_link(&link).unwrap().as_os_str(), path.file_name().unwrap());
            assert_eq!(std::fs::read_to_string(&link).unwrap(), pid);
        }
    }
}
