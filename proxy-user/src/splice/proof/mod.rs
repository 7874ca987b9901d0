//! Trusts no engine by version number: at start, real sockets over loopback go through each one.
//!
//! Each check is for a known fault of some kernel, or for what we rely on. One that fails, or that cannot run, counts
//! as not proven, and the ladder goes one step down: sockmap, splice(2), copy. All together take well under a
//! second on a machine that is not busy.

mod flow_control;
mod half_close;
mod kick;
mod overlap;
mod plain_splice;
mod rig;
mod stalled;
mod turns;
mod unix;

use std::fmt;
use std::time::{Duration, Instant};

use super::EngineChoice;
use super::Trust;
use super::kernel::Sockmap;

/// Directions that the checks map at a time, and then some: slots rest for a second before they are reused.
const DIRECTIONS: u32 = 64;

/// What a check saw that it must not see, or what it could not do.
#[derive(Debug, thiserror::Error)]
enum Doubt {
    #[error("{doing}: {source}")]
    Io { doing: &'static str, source: std::io::Error },
    #[error("byte {at} was wrong, lost or repeated")]
    Wrong { at: u64 },
    #[error("no progress for {} s at byte {at} of {of}", STALL.as_secs())]
    Stalled { at: u64, of: u64 },
    #[error("the kernel refused the sockets: {0}")]
    Refused(#[from] super::kernel::MapRefused),
    #[error("{0}")]
    Saw(String),
}

impl Doubt {
    fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> Doubt {
        move |source| Doubt::Io { doing, source }
    }
}

/// Longer than any pause of a busy machine; a check that waits this long waits for ever.
const STALL: Duration = Duration::from_secs(5);

/// Whether one engine may be used, or why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    Proven,
    /// The sentence for log and doctor.
    NotProven(String),
}

impl Proof {
    pub fn is_proven(&self) -> bool {
        *self == Proof::Proven
    }

    pub fn why_not(&self) -> Option<&str> {
        match self {
            Proof::Proven => None,
            Proof::NotProven(why) => Some(why),
        }
    }
}

/// What was proven on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Abilities {
    /// Redirecting TCP → TCP.
    pub sockmap_tcp: Proof,
    /// Redirecting Unix → TCP.
    pub sockmap_unix: Proof,
    /// splice(2) between sockets.
    pub splice: Proof,
    /// How long proving took.
    pub took: Duration,
}

impl Abilities {
    /// Of a process that runs no checks: copy only.
    pub fn none(why: &str) -> Abilities {
        let not = || Proof::NotProven(why.to_owned());
        Abilities { sockmap_tcp: not(), sockmap_unix: not(), splice: not(), took: Duration::ZERO }
    }

    /// What is in force now.
    #[must_use]
    pub fn in_force(&self, trust: &Trust) -> Abilities {
        match trust.is_lost() {
            true => self.clone().without_sockmap(
                "proven at the start, but it was caught at a wrong count since (konduit_engine_events_total, \
                 event=\"violation\"); new flows do without until a restart",
            ),
            false => self.clone(),
        }
    }

    fn without_sockmap(mut self, why: &str) -> Abilities {
        for proof in [&mut self.sockmap_tcp, &mut self.sockmap_unix] {
            if proof.is_proven() {
                *proof = Proof::NotProven(why.to_owned());
            }
        }
        self
    }

    /// What the splicer may use, each by itself: a fault of Unix sources says nothing of TCP.
    pub fn proven(&self) -> super::Proven {
        super::Proven {
            sockmap_tcp: self.sockmap_tcp.is_proven(),
            sockmap_unix: self.sockmap_unix.is_proven(),
            splice: self.splice.is_proven(),
        }
    }

    /// Each engine's name, as in metrics, with its proof.
    pub fn each(&self) -> [(&'static str, &Proof); 3] {
        [("sockmap-tcp", &self.sockmap_tcp), ("sockmap-unix", &self.sockmap_unix), ("splice", &self.splice)]
    }
}

impl fmt::Display for Abilities {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proven: Vec<_> =
            self.each().iter().filter(|(_, proof)| proof.is_proven()).map(|(name, _)| *name).collect();
        match proven.as_slice() {
            [] => write!(out, "bytes are copied in userspace")?,
            names => write!(out, "proven on this machine: {}, copy", names.join(", "))?,
        }
        for (name, proof) in self.each() {
            if let Proof::NotProven(why) = proof {
                write!(out, "; no {name}: {why}")?;
            }
        }
        Ok(())
    }
}

type Check = (&'static str, fn(&Sockmap) -> Result<(), Doubt>);

const TCP_CHECKS: [Check; 7] = [
    ("bytes that were there first", kick::check),
    ("flow control and leaving", flow_control::check),
    ("a stalled reader behind a small buffer", stalled::check),
    ("passing and back", turns::check),
    ("half-close", half_close::check),
    ("splice(2) beside a redirect", plain_splice::check_beside_redirect),
    ("overlapping segments", overlap::check),
];

const UNIX_CHECKS: [Check; 2] =
    [("Unix to TCP behind a small buffer", unix::check), ("end of a Unix stream", unix::check_end)];

/// Runs the checks. Blocks for as long as they take: not for a tokio thread.
pub fn prove() -> Abilities {
    let started = Instant::now();
    let splice = verdict(&plain_splice::check().map_err(|doubt| ("splice(2)", doubt)));
    let (sockmap_tcp, sockmap_unix) = match Sockmap::load(DIRECTIONS) {
        Ok(sockmap) => (ladder(&sockmap, &TCP_CHECKS), ladder(&sockmap, &UNIX_CHECKS)),
        Err(why) => (Proof::NotProven(why.to_string()), Proof::NotProven(why.to_string())),
    };
    let abilities = Abilities { sockmap_tcp, sockmap_unix, splice, took: started.elapsed() };
    match abilities.splice.is_proven() {
        true => abilities,
        // What leaves the map would have nowhere to go.
        false => abilities.without_sockmap("it is not used without splice(2)"),
    }
}

/// [`prove`] on a thread of its own, of what may be used: no port opens before that is known, and where bytes are only
/// copied nothing is to be known. Must be called inside a tokio runtime.
pub async fn prove_aside(allowed: EngineChoice) -> Abilities {
    if allowed == EngineChoice::Copy {
        return Abilities::none("not tried, since --engine is copy");
    }
    let proved = tokio::task::spawn_blocking(prove).await;
    proved.unwrap_or_else(|_| Abilities::none("the self-test did not come to its end"))
}

fn ladder(sockmap: &Sockmap, checks: &[Check]) -> Proof {
    verdict(&checks.iter().try_for_each(|(name, check)| {
        let started = Instant::now();
        let result = check(sockmap);
        tracing::debug!(check = name, took = ?started.elapsed(), holds = result.is_ok(), "self-test");
        result.map_err(|doubt| (*name, doubt))
    }))
}

fn verdict(result: &Result<(), (&'static str, Doubt)>) -> Proof {
    match result {
        Ok(()) => Proof::Proven,
        Err((name, doubt)) => Proof::NotProven(format!("the self-test \"{name}\" did not hold: {doubt}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_proven() -> Abilities {
        let (sockmap_tcp, sockmap_unix, splice) = (Proof::Proven, Proof::Proven, Proof::Proven);
        Abilities { sockmap_tcp, sockmap_unix, splice, took: Duration::ZERO }
    }

    #[test]
    fn what_is_used_is_what_is_reported() {
        let not = || Proof::NotProven("no".to_owned());
        for [tcp, unix, splice] in
            [[true, false, true], [false, true, true], [false, false, true], [true; 3], [false; 3]]
        {
            let mut abilities = all_proven();
            for (proof, proven) in [
                (&mut abilities.sockmap_tcp, tcp),
                (&mut abilities.sockmap_unix, unix),
                (&mut abilities.splice, splice),
            ] {
                *proof = if proven { Proof::Proven } else { not() };
            }
            let used = abilities.proven();
            assert_eq!([used.sockmap_tcp, used.sockmap_unix, used.splice], [tcp, unix, splice]);
            let reported = abilities.each().map(|(_, proof)| proof.is_proven());
            assert_eq!(reported, [tcp, unix, splice]);
        }
    }

    #[test]
    fn nothing_is_tried_of_what_may_not_be_used() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let abilities = runtime.block_on(prove_aside(EngineChoice::Copy));
        assert_eq!(abilities.took, Duration::ZERO);
        for (name, proof) in abilities.each() {
            assert!(matches!(proof, Proof::NotProven(why) if why.contains("--engine")), "{name}: {proof:?}");
        }
    }

    #[test]
    fn a_kernel_that_was_caught_has_nothing_proven_but_splice() {
        let (mut abilities, trust) = (all_proven(), Trust::default());
        abilities.sockmap_unix = Proof::NotProven("as before".to_owned());
        assert_eq!(abilities.in_force(&trust), abilities);
        trust.lose();
        let now = abilities.in_force(&trust);
        assert!(now.sockmap_tcp.why_not().unwrap().contains("caught at a wrong count"), "{now}");
        assert_eq!((now.sockmap_unix.why_not(), now.splice), (Some("as before"), Proof::Proven));
    }

    #[test]
    fn the_verdict_says_what_failed() {
        let mut abilities = Abilities::none("not asked");
        assert_eq!(
            abilities.to_string(),
            "bytes are copied in userspace; no sockmap-tcp: not asked; no sockmap-unix: not asked; no splice: not asked"
        );
        abilities.splice = Proof::Proven;
        abilities.sockmap_unix = Proof::Proven;
        abilities.sockmap_tcp = verdict(&Err(("half-close", Doubt::Wrong { at: 7 })));
        assert_eq!(
            abilities.to_string(),
            "proven on this machine: sockmap-unix, splice, copy; no sockmap-tcp: the self-test \"half-close\" did \
             not hold: byte 7 was wrong, lost or repeated"
        );
    }
}
