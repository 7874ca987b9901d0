//! What one flow will do, from its number alone, so that both ends know it.

use std::time::Duration;

use super::pattern::mix;

/// Pieces of one direction at most: millions of tiny ones outlast what the other direction waits for its turn.
const MOST_PIECES: u64 = 100_000;

/// The ways in which flows differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// A few bytes each way, at once.
    Tiny,
    /// Megabytes each way, as fast as it goes.
    Bulk,
    /// The readers pause.
    Stalling,
    /// Small messages for seconds, then megabytes at once: the engine has to change its mind.
    Turning,
    /// Ends in the middle, by the client.
    ClientAborts,
    /// Ends in the middle, by the target.
    TargetAborts,
}

impl Shape {
    pub const ALL: [Shape; 6] =
        [Shape::Tiny, Shape::Bulk, Shape::Stalling, Shape::Turning, Shape::ClientAborts, Shape::TargetAborts];
}

/// One flow.
#[derive(Debug, Clone)]
pub struct Plan {
    pub flow: u64,
    pub shape: Shape,
    pub up: Half,
    pub down: Half,
}

/// One direction of a flow.
#[derive(Debug, Clone)]
pub struct Half {
    /// Bytes that the sender sends before it ends the direction.
    pub bytes: u64,
    /// Small messages with a pause before each, then the rest in big pieces.
    pub chatter: u32,
    pub pause: Duration,
    pub piece: usize,
    /// The reader sleeps so long after each so many bytes.
    pub nap: Option<(u64, Duration)>,
    /// The sender waits with its first byte until the other direction has ended: a half-close with traffic after.
    pub after_other: bool,
    /// The sender aborts after so many bytes instead of ending the direction.
    pub abort_at: Option<u64>,
}

impl Plan {
    /// The plan of flow `flow`; `most` is the size of the largest direction in bytes.
    pub fn of(flow: u64, most: u64) -> Plan {
        let mut dice = Dice(mix(flow));
        let shape = match dice.below(20) {
            0..6 => Shape::Tiny,
            6..11 => Shape::Bulk,
            11..14 => Shape::Stalling,
            14..17 => Shape::Turning,
            17..19 => Shape::ClientAborts,
            _ => Shape::TargetAborts,
        };
        let mut plan = Plan { flow, shape, up: dice.half(shape, most), down: dice.half(shape, most) };
        match (shape, dice.below(4)) {
            (Shape::ClientAborts, _) => plan.up.abort_at = Some(dice.below(plan.up.bytes + 1)),
            (Shape::TargetAborts, _) => plan.down.abort_at = Some(dice.below(plan.down.bytes + 1)),
            (_, 0) => plan.down.after_other = true,
            (_, 1) => plan.up.after_other = true,
            _ => {}
        }
        plan
    }

    pub fn aborts(&self) -> bool {
        self.up.abort_at.is_some() || self.down.abort_at.is_some()
    }
}

struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn half(&mut self, shape: Shape, most: u64) -> Half {
        let bytes = match shape {
            Shape::Tiny => self.below(300),
            // Every size from nothing to the largest is as likely as its double.
            _ => {
                let highest = most >> self.below(12);
                self.below(highest + 1)
            }
        };
        let turning = shape == Shape::Turning;
        let nap = (shape == Shape::Stalling)
            .then(|| (most / 16 + self.below(most / 2), Duration::from_millis(50 + self.below(1200))));
        let largest_piece = if self.below(3) == 0 { 3_000 } else { 200_000 };
        Half {
            bytes,
            chatter: if turning { 100 + self.below(100) as u32 } else { 0 },
            pause: Duration::from_millis(if turning { 10 + self.below(30) } else { 0 }),
            piece: (1 + self.below(largest_piece)).max(bytes / MOST_PIECES) as usize,
            nap,
            after_other: false,
            abort_at: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shapes_come_up_and_only_the_aborting_ones_abort() {
        let plans: Vec<Plan> = (0..500).map(|flow| Plan::of(flow, 1 << 20)).collect();
        for shape in Shape::ALL {
            assert!(plans.iter().any(|plan| plan.shape == shape), "{shape:?} never came up");
        }
        for plan in plans {
            let aborting = matches!(plan.shape, Shape::ClientAborts | Shape::TargetAborts);
            assert_eq!(plan.aborts(), aborting);
            assert!(!(plan.up.after_other && plan.down.after_other), "both would wait for ever");
        }
    }
}
