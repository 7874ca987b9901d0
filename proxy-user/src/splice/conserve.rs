//! No byte may be repeated or lost: what the verdict counted, held against TCP's own counts of both sockets.

use std::thread;
use std::time::Duration;

use super::kernel::Counts;

/// FIN has a sequence number, and both sockets may count it as a byte; one lost byte could hide behind it.
const FIN: u64 = 1;

/// How far a mapped direction has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Moving,
    /// Out of the map, and drained.
    Left,
    /// Ended cleanly, and drained.
    Ended,
}

impl Stage {
    /// Nothing moves any more between the source and the destination's queue.
    pub(super) fn is_drained(self) -> bool {
        self != Stage::Moving
    }
}

/// The kernel's own counts contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("{counted} bytes went through the map and {received} were received: bytes were repeated or lost")]
    Source { counted: u64, received: u64 },
    #[error("{counted} bytes were moved and {sent} sent: bytes were repeated or lost")]
    Destination { counted: u64, sent: u64 },
    #[error("a segment came out of sequence: bytes were lost")]
    Gap,
}

/// Bytes since the direction entered the map: `received` by the source, `sent` into the destination's queue; none
/// where the socket does not say.
///
/// More counted than received is a segment delivered twice. Once nothing moves any more, the destination's queue
/// must have accepted as much as was moved; and if the source has ended, nothing received may be missing.
pub(super) fn judge(
    counts: &Counts,
    received: Option<u64>,
    sent: Option<u64>,
    stage: Stage,
) -> Result<(), Violation> {
    if counts.gaps > 0 {
        return Err(Violation::Gap);
    }
    if let Some(received) = received {
        let counted = counts.redirected + counts.passed;
        if counted > received || stage == Stage::Ended && received > counted + FIN {
            return Err(Violation::Source { counted, received });
        }
    }
    if let Some(sent) = sent.filter(|_| stage.is_drained()) {
        let counted = counts.delivered();
        if sent < counted || sent > counted + FIN {
            return Err(Violation::Destination { counted, sent });
        }
    }
    Ok(())
}

/// How long a thread that finds a contradiction waits before it asks again. What is on its way from one count to the
/// other is there within microseconds; one that stays costs sockmap for as long as the process lives.
const ASK_AGAIN: Duration = Duration::from_millis(1);

/// The second judgement where the first one is against the kernel.
pub(super) fn ask_twice(judgement: impl Fn() -> Result<(), Violation>) -> Result<(), Violation> {
    judgement().or_else(|_| {
        thread::sleep(ASK_AGAIN);
        judgement()
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const REDIRECTED: u64 = 700;
    const PASSED: u64 = 300;
    const ALL: u64 = REDIRECTED + PASSED;

    const SOUND: Counts = Counts {
        redirected: REDIRECTED,
        passed: PASSED,
        forwarded: PASSED,
        trimmed: 0,
        peak: 0,
        overflows: 0,
        strays: 0,
        gaps: 0,
    };
    const REPEATED: Counts = Counts { redirected: REDIRECTED + 1, ..SOUND };
    /// The verdict saw it twice, and userspace moved it once.
    const PASSED_TWICE: Counts = Counts { passed: PASSED + 1, ..SOUND };
    /// Passed bytes that userspace has yet to write.
    const WAITING: Counts = Counts { forwarded: 0, ..SOUND };
    const GAP: Counts = Counts { gaps: 1, ..SOUND };

    const fn source(counted: u64, received: u64) -> Result<(), Violation> {
        Err(Violation::Source { counted, received })
    }

    const fn destination(counted: u64, sent: u64) -> Result<(), Violation> {
        Err(Violation::Destination { counted, sent })
    }

    /// What happened, the counts, bytes received and sent, and the judgement at each stage.
    type Case = (&'static str, Counts, Option<u64>, Option<u64>, [Result<(), Violation>; 3]);

    const FINE: [Result<(), Violation>; 3] = [Ok(()); 3];
    const GONE: [Result<(), Violation>; 3] = [Err(Violation::Gap); 3];

    const CASES: [Case; 16] = [
        ("exact", SOUND, Some(ALL), Some(ALL), FINE),
        ("FIN on both sides", SOUND, Some(ALL + 1), Some(ALL + 1), FINE),
        ("FIN received, not sent", SOUND, Some(ALL + 1), Some(ALL), FINE),
        ("more received than was seen yet", SOUND, Some(ALL + 500), Some(ALL), {
            [Ok(()), Ok(()), source(ALL, ALL + 500)]
        }),
        ("passed bytes wait", WAITING, Some(ALL), Some(REDIRECTED), FINE),
        ("redirected twice", REPEATED, Some(ALL), Some(ALL + 1), [source(ALL + 1, ALL); 3]),
        ("passed twice", PASSED_TWICE, Some(ALL), Some(ALL), [source(ALL + 1, ALL); 3]),
        ("lost at the source", SOUND, Some(ALL + 2), Some(ALL), [Ok(()), Ok(()), source(ALL, ALL + 2)]),
        ("lost at the destination", SOUND, Some(ALL), Some(ALL - 1), {
            [Ok(()), destination(ALL, ALL - 1), destination(ALL, ALL - 1)]
        }),
        ("sent twice", SOUND, Some(ALL), Some(ALL + 2), {
            [Ok(()), destination(ALL, ALL + 2), destination(ALL, ALL + 2)]
        }),
        ("both wrong", REPEATED, Some(ALL), Some(ALL - 1), [source(ALL + 1, ALL); 3]),
        ("a gap", GAP, Some(ALL), Some(ALL), GONE),
        ("a gap, nothing else known", GAP, None, None, GONE),
        ("nothing known", SOUND, None, None, FINE),
        ("a Unix source, lost at the destination", SOUND, None, Some(ALL - 1), {
            [Ok(()), destination(ALL, ALL - 1), destination(ALL, ALL - 1)]
        }),
        ("repeated, the destination does not say", REPEATED, Some(ALL), None, [source(ALL + 1, ALL); 3]),
    ];

    #[test]
    fn only_a_contradiction_that_stays_is_one() {
        const SAYS: [fn(u32) -> bool; 3] = [|_| true, |asked| asked > 1, |_| false];
        let judgements = SAYS.map(|is_sound| {
            let asked = Cell::new(0);
            let judgement = ask_twice(|| {
                asked.set(asked.get() + 1);
                if is_sound(asked.get()) { Ok(()) } else { Err(Violation::Gap) }
            });
            (judgement, asked.get())
        });
        assert_eq!(judgements, [(Ok(()), 1), (Ok(()), 2), (Err(Violation::Gap), 2)]);
    }

    #[test]
    fn each_stage_forgives_what_may_be_on_its_way_and_nothing_else() {
        for (what, counts, received, sent, judgements) in CASES {
            for (stage, expected) in [Stage::Moving, Stage::Left, Stage::Ended].into_iter().zip(judgements) {
                assert_eq!(judge(&counts, received, sent, stage), expected, "{what}, {stage:?}");
            }
        }
    }
}
