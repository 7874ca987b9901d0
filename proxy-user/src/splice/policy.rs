//! When bytes move how: every constant with the measurement or the reason behind it.

use std::time::Duration;

/// Bytes one direction may copy on a quick thread before others get their turn. 8 × 64 KiB had a round trip p99 of
/// 8-40 ms beside four bulk flows, 1 × 64 KiB 4 ms, with the same throughput.
pub(super) const COPY_QUANTUM: usize = 64 << 10;

/// The same on a bulk thread. A Unix writer is woken when a quarter of its buffer is left: a large read leaves work for
/// while it wakes. One upload was 1.14 to 1.30 times as fast as with 64 KiB, eight 1.15.
pub(super) const COPY_QUANTUM_OF_BULK: usize = 256 << 10;

/// How long a Unix peer may take to read the greeting before bytes of the flow follow it.
pub(super) const GREETING_WAIT: Duration = Duration::from_millis(50);

/// How long bytes in front of an abort may wait for a taker since the last progress, and then, in all, to be
/// acknowledged.
pub(super) const ABORT_WAIT: Duration = Duration::from_secs(1);

/// A client on a Unix socket that closed both directions takes no byte any more, and a target that neither ends nor
/// sends would hold the flow for ever. Ended after so long without a byte moved: what the kernel gives a TCP socket
/// whose owner closed it (tcp_fin_timeout).
pub(super) const ORPHAN_AFTER: Duration = Duration::from_secs(60);

/// A flow of two sockets that tokio watches stays there for so many bytes and so long: handing it to an engine thread
/// costs two wake-ups, a dozen system calls and 100 µs of CPU at both hops together.
pub(crate) const BRIEF_BYTES: u64 = 64 << 10;
pub(crate) const BRIEF_TIME: Duration = Duration::from_millis(100);

/// How long a flow waits for its forced engine: many round trips. A peer that does not say by then that it left TLS may
/// be gone, and nobody looks after the client meanwhile.
pub(super) const FORCED_WAIT: Duration = Duration::from_secs(1);

/// What a peer may say before a forced engine has its flow: all that fits in frames, and as much behind them.
pub(super) const HELD_MOST: usize = 2 * BRIEF_BYTES as usize;

/// How often the copy on tokio looks after the peers of a flow in which one direction waits or is over: it reads
/// nothing then that would tell of a dead one.
pub(super) const LOOK_AFTER: Duration = Duration::from_secs(1);

/// Commands that wait for one engine thread; beyond it a new flow is refused.
pub(super) const INBOX_BOUND: usize = 4096;

/// What a flow with little of the budget reads at a time, and holds where its destination takes no more: twice over TLS,
/// which keeps the record. With 16 KiB an agent with 64 such flows held 1.49 and 1.55 budgets of 8 MiB, with 8 KiB 1.46.
pub(super) const STREAM_BUFFER_LEAST: usize = 8 << 10;

/// Buffers of the copy on tokio: small for a round trip, grown while they come back full. One TLS record is
/// 16 KiB; 256 KiB is where a write no longer costs less per byte.
pub(super) const STREAM_BUFFER_FIRST: usize = 16 << 10;
pub(super) const STREAM_BUFFER_MOST: usize = 256 << 10;

/// Bytes one direction may splice before others get their turn. Larger steps carried no more, and made a round
/// trip beside four bulk flows wait longer.
pub(super) const SPLICE_QUANTUM: usize = 256 << 10;

/// A pipe takes one quantum. Also the unit of the pool's byte budget.
pub(super) const PIPE_BYTES: usize = SPLICE_QUANTUM;

/// Empty pipes kept for the next bulk direction; making one costs three system calls.
pub(super) const PIPES_KEPT: usize = 32;

/// Pipes use at most one in so many descriptors of the process.
pub(super) const PIPE_SHARE_OF_FDS: u64 = 8;

/// 512 KiB within 50 ms (84 Mbit/s) is bulk: a pipe and a thread of its own. By the total, an interactive flow
/// would become bulk as it ages. Above this rate a splice costs 0.4 CPU seconds per GB, a copy 0.7 (paced at
/// 1 Gbit/s).
pub(super) const BULK_BYTES: u64 = 512 << 10;
pub(super) const BULK_WINDOW: Duration = Duration::from_millis(50);

/// A direction that stayed below the bulk rate for so long gives its pipe back.
pub(super) const BULK_REST: Duration = Duration::from_millis(200);

/// Bytes that may wait unsent at a mapped destination before the direction has to leave. 1 MiB kept every flow that its
/// reader keeps up with in redirect. 4 MiB let a stalled flow hold 25 MiB (2 MiB: 14, HAProxy: 13). Never below 64 KiB,
/// however many flows are mapped, but where the flow's own grant is less.
pub(super) const LIMIT_MOST: u64 = 2 << 20;
pub(super) const LIMIT_LEAST: u64 = 64 << 10;

/// Unsent bytes that close a source's brake, or its share of the budget if that is less. A direction that turns bulky is
/// out of its map 0.2 to 4 ms after half of the limit waits, and on loopback 3 to 16 MiB arrive until then; a reader that
/// stalls just then leaves them there. What the brake keeps out waits for a retransmission, at worst for a timer of 200 ms.
pub(super) const CLOSES_MOST: u64 = 8 << 20;

/// A direction is calm that had no burst over 256 KiB for 2 s. A TLS handshake and a protocol upgrade look
/// interactive for their first 20 ms, and then a copy sends 10 GB.
pub(super) const BURST_BYTES: u64 = 256 << 10;
pub(super) const CALM_AFTER: Duration = Duration::from_secs(2);

/// How often to look for what the kernel tells by no event: the backlog's end, passed bytes between two queues.
pub(super) const LAG_LOOK: Duration = Duration::from_millis(1);

/// The longest time between two looks at a backlog that its reader does not take.
pub(super) const BACKLOG_LOOK: Duration = Duration::from_millis(16);

/// Passed bytes that take longer are lost.
pub(super) const LAG_BOUND: Duration = Duration::from_secs(5);

/// A direction that had to leave the map stays out for so long, twice as long each time that it was in for less than
/// [`STAY_SHORT`], or moved less than [`STAY_WORTH`] until its destination lagged: a forced one would enter whenever its
/// source pauses, with a walk over all sockets and perhaps a closed brake each time. Without it sources whose reader was
/// slow stayed slow for seconds after it.
pub(super) const STAY_SHORT: Duration = Duration::from_millis(100);
pub(super) const STAY_WORTH: u64 = 16 << 20;
pub(super) const STAY_OUT_LEAST: Duration = Duration::from_millis(16);
pub(super) const STAY_OUT_MOST: Duration = Duration::from_secs(4);

/// How long a quick thread polls awake before it sleeps, when its last wait was shorter than what is worth it: an idle
/// CPU takes 25 µs to wake, longer than a peer on the same machine to answer. Of a round trip of 84 µs this left 64, for
/// half a CPU while trips follow each other; 20 µs were too short for half of them, 100 µs gained nothing.
pub(super) const BUSY_POLL_MOST: Duration = Duration::from_micros(50);
pub(super) const BUSY_POLL_WORTH: Duration = Duration::from_micros(100);

/// The watchdog's round over the mapped flows of a thread.
pub(super) const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Directions that can be in the map at a time: two for each flow that the descriptors of a process allow.
pub(super) const DIRECTIONS: u32 = 20_000;

/// A flow gets a thirty-second of what is left of the budget in each direction: of 8 MiB the first gets 256 KiB, the
/// 17th and all after it the least. With the most nothing is bounded below [`UNSENT_MOST`].
pub(super) const GRANT_SHARE: u64 = 32;
pub(super) const GRANT_LEAST: u64 = RECEIVE_LEAST + (32 << 10);
pub(super) const GRANT_MOST: u64 = 2 * UNSENT_MOST as u64;

/// No receive buffer is smaller: half of it is the window, and a loopback peer's segments are 32 KiB. It sends none
/// into a smaller window but by its probes; with 32 KiB flows stood still for half a minute.
pub(super) const RECEIVE_LEAST: u64 = 64 << 10;

/// Bytes that may wait unsent at a TCP destination, beside what is in flight (the congestion window's business).
/// The kernel's own bound is its send buffer, 4 MiB, all of which a stalled reader holds: two hops held 15 MiB per
/// stalled flow without this and 7 MiB with it (HAProxy: 12), at the same throughput and CPU.
pub(super) const UNSENT_MOST: u32 = 512 << 10;

/// The same where the kernel redirects a Unix source. A destination that takes no more is tried again a tick or two
/// later, 4 to 8 ms: with 512 KiB a link of 1 Gbit/s ran dry meanwhile and carried 0.7 of what it can.
pub(super) const UNSENT_OF_UNIX: u32 = 2 << 20;

/// How often the kernel is asked to let directions out of the map, at the most: a walk over its table of TCP sockets, 0.2
/// to 4 ms. A fast peer sends 8 MiB, and closes the brake, in as long.
pub(super) const LEAVE_EVERY: Duration = Duration::from_millis(2);

/// When to ask again after the kernel refused.
pub(super) const LEAVE_AGAIN: Duration = Duration::from_secs(1);

/// A steady source's bytes gather for so long before they wake a mover: at 1 Gbit/s a whole pipe, 480 wake-ups a
/// second instead of 1,300. Twice as long without them, and the source is not steady.
pub(super) const GATHER_TIME: Duration = Duration::from_millis(2);
pub(super) const GATHER_PATIENCE: Duration = Duration::from_millis(4);
pub(super) const GATHER_LEAST: u64 = 32 << 10;
pub(super) const GATHER_MOST: u64 = PIPE_BYTES as u64;
/// Bytes per second. A faster source is held by what its sender may have in flight, which can be less than what would
/// be waited for: seen with a Unix client, whose 208 KiB come back with the lane's acknowledgement.
pub(super) const GATHER_FASTEST: u64 = 160_000_000;

/// How long a source that fell silent is not waited for. One that keeps falling silent loses at most 4 ms in 1.3 s;
/// who was steady for a while begins anew.
pub(super) const GATHER_PAUSE_LEAST: Duration = Duration::from_millis(20);
pub(super) const GATHER_PAUSE_MOST: Duration = Duration::from_millis(1280);
pub(super) const GATHER_STEADY: Duration = Duration::from_millis(300);

/// SO_SNDBUF of a Unix end, which the kernel doubles. Its writer is woken when three quarters are read; of the kernel's
/// 208 KiB the reader then has the rest read before the writer runs.
pub(super) const UNIX_SEND_BUFFER: usize = 256 << 10;
