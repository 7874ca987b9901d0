//! Steps during which the kernel must find nothing to complain of.

use std::io;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::kernel_log::{KernelLog, is_miscount_of_passing};
use crate::sh;

/// Whether a step makes mapped sockets pass bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passing {
    Never,
    /// Some tests do, and may meet a fault of the kernel's that is known.
    OnPurpose,
}

/// Runs `step`, and fails it over new warnings in the kernel's log; who may not read that is told.
pub(crate) fn watched(passing: Passing, step: impl FnOnce() -> Result<()>) -> Result<()> {
    let log = KernelLog::watch();
    let outcome = step();
    // The kernel warns of a socket when it destroys it, and that may be a moment after its process ended.
    sleep(Duration::from_secs(1));
    judge(outcome, log.and_then(|mut log| log.new_warnings()).map(|warnings| unknown(passing, warnings)))
}

/// Says those aloud that are known.
fn unknown(passing: Passing, warnings: Vec<String>) -> Vec<String> {
    let is_known = |warning: &String| passing == Passing::OnPurpose && is_miscount_of_passing(warning);
    let (known, unknown): (Vec<_>, Vec<_>) = warnings.into_iter().partition(is_known);
    for warning in known {
        sh::say(format!("!!! A KNOWN FAULT OF THE KERNEL (ARCHITECTURE.md): {warning}"));
    }
    unknown
}

fn judge(outcome: Result<()>, warnings: io::Result<Vec<String>>) -> Result<()> {
    match warnings {
        Ok(warnings) if warnings.is_empty() => outcome,
        Ok(warnings) => {
            let warned = format!("new kernel warnings:\n  {}", warnings.join("\n  "));
            match outcome {
                Ok(()) => bail!(warned),
                failed => failed.context(warned),
            }
        }
        Err(error) => {
            sh::say(format!(
                "!!! SKIPPED: the kernel's log was not watched, /dev/kmsg cannot be read: {error}"
            ));
            outcome
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_known_only_where_tests_pass_on_purpose() {
        let known = "net/ipv4/af_inet.c:157 inet_sock_destruct+0x169/0x190, 1 times, last in kworker/1:0";
        let other = "net/core/skmsg.c:1 sk_psock_drop+0x1/0x2, 1 times, last in proxy-agent";
        let both = || vec![known.to_owned(), other.to_owned()];
        assert_eq!(unknown(Passing::OnPurpose, both()), [other]);
        assert_eq!(unknown(Passing::Never, both()), both());
    }

    #[test]
    fn a_warning_fails_a_step_and_takes_no_failure_s_place() {
        let denied = || Err(io::ErrorKind::PermissionDenied.into());
        let warned = || Ok(vec!["net/core/skmsg.c:1, 1 times, last in proxy-agent".to_owned()]);
        let failed = || Err(anyhow::anyhow!("a test failed"));
        assert!(judge(Ok(()), Ok(vec![])).is_ok());
        assert!(judge(Ok(()), denied()).is_ok());
        assert!(judge(failed(), denied()).is_err());
        let error = format!("{:#}", judge(Ok(()), warned()).unwrap_err());
        assert!(error.contains("skmsg.c:1"), "{error}");
        let error = format!("{:#}", judge(failed(), warned()).unwrap_err());
        assert!(error.contains("skmsg.c:1") && error.contains("a test failed"), "{error}");
    }
}
