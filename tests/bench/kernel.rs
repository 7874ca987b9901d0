//! The kernel's log during a run: nothing that we do may make it complain.

use std::time::Duration;

use proxy_tests::kernel_log::KernelLog;

/// How long the kernel may take to destroy the sockets of a process that ended.
const SOCKETS_GONE: Duration = Duration::from_secs(1);

/// The log from some moment on, where we may read it.
pub struct Watch(Option<KernelLog>);

impl Watch {
    /// Root can read it, so root has to; who else cannot is told once.
    pub fn start() -> anyhow::Result<Watch> {
        Watch::of(KernelLog::watch(), rustix::process::geteuid().is_root())
    }

    /// Where it can be read, for who shows what runs, in a container as well; told where it cannot.
    pub fn where_readable() -> anyhow::Result<Watch> {
        Watch::of(KernelLog::watch(), false)
    }

    fn of<E: std::fmt::Display>(log: Result<KernelLog, E>, must: bool) -> anyhow::Result<Watch> {
        match log {
            Ok(log) => Ok(Watch(Some(log))),
            Err(error) if must => anyhow::bail!(
                "the kernel's log must be watched, and /dev/kmsg cannot be read: {error}; in a container, give it \
                 that device and CAP_SYSLOG"
            ),
            Err(error) => {
                eprintln!("!!! SKIPPED: the kernel's log is not watched, /dev/kmsg cannot be read: {error}");
                Ok(Watch(None))
            }
        }
    }

    /// Warnings since the last call.
    pub fn new_warnings(&mut self) -> anyhow::Result<Vec<String>> {
        Ok(self.0.as_mut().map(KernelLog::new_warnings).transpose()?.unwrap_or_default())
    }

    /// The same once whatever held sockets has ended: the kernel warns of one when it destroys it.
    pub fn check_after_the_end(&mut self) -> anyhow::Result<()> {
        std::thread::sleep(SOCKETS_GONE);
        self.check()
    }

    /// An error when there were any since the last call.
    pub fn check(&mut self) -> anyhow::Result<()> {
        let warnings = self.new_warnings()?;
        anyhow::ensure!(warnings.is_empty(), "new kernel warnings:\n  {}", warnings.join("\n  "));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_not_root_goes_on_without_the_log() {
        let denied = || Err("permission denied");
        assert!(Watch::of(denied(), true).is_err());
        assert_eq!(Watch::of(denied(), false).unwrap().new_warnings().unwrap(), Vec::<String>::new());
    }
}
