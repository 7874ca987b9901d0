//! Want of descriptors, told once in a while however often it is met.

use std::io;
use std::time::{Duration, Instant};

use super::seldom::Seldom;

const EVERY: Duration = Duration::from_secs(10);

/// What there is no room for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Of {
    Flows,
    Connections,
    Newcomers,
}

/// Flows or connections are refused for want of room, which is a share of the open files that this process may have.
/// Whoever finds none asks again at once.
pub(crate) fn tell_no_room(what: Of, most: u64) {
    static FLOWS: Seldom = Seldom::new(EVERY);
    static CONNECTIONS: Seldom = Seldom::new(EVERY);
    static NEWCOMERS: Seldom = Seldom::new(EVERY);
    let (what, said) = match what {
        Of::Flows => ("flows", &FLOWS),
        Of::Connections => ("connections of API servers", &CONNECTIONS),
        Of::Newcomers => ("connections of agents that are not registered yet", &NEWCOMERS),
    };
    if said.take(Instant::now()) {
        tracing::warn!(
            most,
            "No room for more {what}, which are refused: raise the hard limit on open files (ulimit -Hn, LimitNOFILE= \
             of a unit), of which they have a share, or spread them over more processes"
        );
    }
}

/// A dial found no descriptor, though there may be fewer flows than there is room for.
pub(crate) fn tell_no_descriptor(error: &io::Error) {
    static SAID: Seldom = Seldom::new(EVERY);
    if let Some(next) = remedy(error)
        && SAID.take(Instant::now())
    {
        tracing::warn!(%error, next, "No room for more flows, which are refused");
    }
}

/// What is to be done when descriptors or memory ran out; `None` for another error.
pub(crate) fn remedy(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        libc::EMFILE => Some("raise the hard limit on open files (ulimit -Hn, LimitNOFILE= of a unit)"),
        libc::ENFILE => Some("raise this machine's limit on open files (sysctl fs.file-max)"),
        libc::ENOBUFS | libc::ENOMEM => Some("give this machine or container more memory"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_has_a_remedy_and_a_lost_connection_needs_none() {
        let of = |errno| remedy(&io::Error::from_raw_os_error(errno));
        for (errno, words) in [
            (libc::EMFILE, "LimitNOFILE"),
            (libc::ENFILE, "fs.file-max"),
            (libc::ENOBUFS, "memory"),
            (libc::ENOMEM, "memory"),
        ] {
            assert!(of(errno).is_some_and(|said| said.contains(words)), "{errno}");
        }
        assert_eq!(of(libc::ECONNABORTED), None);
    }
}
