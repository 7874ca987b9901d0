//! How many bytes the flows of this process may hold back, unless the operator says.

use std::fs;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::policy::{GRANT_LEAST, GRANT_MOST, GRANT_SHARE, RECEIVE_LEAST, UNSENT_MOST};
use super::sock::prepare_tcp;

/// What one flow may hold back in a direction: half of it received, [`RECEIVE_LEAST`] at the least; of what that leaves
/// a quarter in userspace or a pipe, half unsent; the kernel's last segment takes the rest. A grant of [`GRANT_MOST`]
/// leaves the kernel's autotuning alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant(u64);

impl Grant {
    /// Receives less than the kernel would let it.
    pub(super) fn is_bounded(self) -> bool {
        self.bounded().is_some()
    }

    fn bounded(self) -> Option<u64> {
        (self.0 < GRANT_MOST).then_some(self.0)
    }

    fn received(self) -> u64 {
        (self.0 / 2).max(RECEIVE_LEAST)
    }

    /// Behind the receive buffer; none: as the kernel sees fit.
    fn behind(self) -> Option<u64> {
        self.bounded().map(|bytes| bytes - self.received())
    }

    /// Bytes of the receive buffer; none: as the kernel sees fit.
    pub(super) fn receive_buffer(self) -> Option<usize> {
        self.bounded().map(|_| self.received() as usize)
    }

    /// Bytes on their way through a pipe or a buffer of ours.
    pub(super) fn in_hand(self) -> usize {
        self.behind().map_or(usize::MAX, |bytes| bytes as usize / 4)
    }

    /// Bytes that wait at the destination beside what is in flight.
    pub(super) fn unsent(self) -> u32 {
        self.behind().map_or(UNSENT_MOST, |bytes| bytes as u32 / 2)
    }

    /// Too little for the kernel to keep by itself: it looks at what is unsent only where it begins a segment, which
    /// may get 64 KiB long. So room is asked for before each send; on tokio no buffer is held until there is some.
    pub(super) fn is_scarce(self) -> bool {
        self.bounded().is_some_and(|bytes| bytes / 2 < RECEIVE_LEAST)
    }

    /// The same where the kernel itself redirects; the brake of who is bounded closes there.
    pub(super) fn redirected(self) -> u32 {
        self.behind().map_or(u32::MAX, |bytes| bytes as u32)
    }
}

/// A flow may hold its grant in each of them at a time.
const DIRECTIONS: u64 = 2;

/// The budget of all flows, handed out as they come: each gets a fixed part of what is left, so that the sum stays
/// within the budget until everybody gets the least.
#[derive(Debug)]
pub(super) struct Grants {
    budget: u64,
    /// To all flows, in both directions.
    given: AtomicU64,
}

impl Grants {
    pub(super) fn new(budget: u64) -> Grants {
        Grants { budget, given: AtomicU64::new(0) }
    }

    /// What a new flow may hold back in each direction.
    pub(super) fn take(&self) -> Grant {
        let left = self.budget.saturating_sub(self.given.load(Ordering::Relaxed));
        let grant = (left / GRANT_SHARE).clamp(GRANT_LEAST, GRANT_MOST);
        self.given.fetch_add(DIRECTIONS * grant, Ordering::Relaxed);
        Grant(grant)
    }

    pub(super) fn give_back(&self, grant: Grant) {
        self.given.fetch_sub(DIRECTIONS * grant.0, Ordering::Relaxed);
    }

    /// Takes `bytes` for a flow that outgrew its grant. The half of the budget that is left to flows yet to come is
    /// never taken so.
    fn extend(&self, bytes: u64) -> bool {
        let most = self.budget / 2;
        let grown = |given: u64| given.checked_add(bytes).filter(|given| *given <= most);
        self.given.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok()
    }
}

/// What a [`FlowStream`](super::FlowStream) may hold back in each direction, of the budget that all flows share.
#[derive(Debug)]
pub struct Room {
    /// Received bytes that wait to be read.
    pub receive: u64,
    /// Written bytes that wait to be sent.
    pub unsent: usize,
    /// Where more than `receive` is to be asked for.
    pub more: Allowance,
    /// What is received is to hold no more memory than it has bytes.
    pub scarce: bool,
    grant: Grant,
}

impl Room {
    pub(super) fn new(grant: Grant, grants: &Arc<Grants>) -> Room {
        let more = Allowance { grants: grants.clone(), taken: 0 };
        let scarce = grant.is_scarce();
        Room { receive: grant.received(), unsent: grant.unsent() as usize, more, scarce, grant }
    }

    /// Bounds the buffers of a socket below the flow as a clear one's are; once that bounds what it receives, the
    /// kernel never tunes it again.
    pub fn bound(&self, socket: &impl AsFd) {
        // A socket whose peer is gone refuses this; reading it says so in order.
        let _ = prepare_tcp(socket, self.grant);
    }

    /// As of a flow that is alone with this budget.
    #[cfg(test)]
    pub(crate) fn alone(budget: u64) -> Room {
        let grants = Arc::new(Grants::new(budget));
        Room::new(grants.take(), &grants)
    }
}

/// What one flow took of the budget beyond its grant; dropping it gives that back.
#[derive(Debug)]
pub struct Allowance {
    grants: Arc<Grants>,
    taken: u64,
}

impl Allowance {
    /// Takes `bytes` more; false where the other flows leave no room for that.
    pub fn take(&mut self, bytes: u64) -> bool {
        let taken = self.grants.extend(bytes);
        if taken {
            self.taken += bytes;
        }
        taken
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        self.grants.given.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

/// A quarter of the container's memory limit, else a sixteenth of the machine; upstream's manifests give an agent
/// 30 Mi.
pub(super) fn default_bytes() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_memory(&text));
    let machine = machine.unwrap_or(1 << 30);
    match container_limit().filter(|limit| *limit < machine) {
        Some(limit) => limit / 4,
        None => machine / 16,
    }
}

/// The tightest limit on the way from our own cgroup to the root; version 2, then version 1.
pub(crate) fn container_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let v2 = unified.into_iter().flat_map(|group| limits("/sys/fs/cgroup", group, "memory.max"));
    let memory = groups.lines().find_map(|line| line.split_once(":memory:").map(|(_, group)| group));
    let v1 =
        memory.into_iter().flat_map(|group| limits("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes"));
    v2.chain(v1).min()
}

fn limits(root: &str, group: &str, file: &str) -> Vec<u64> {
    let mut group = group.trim_end_matches('/');
    let mut found = Vec::new();
    loop {
        let limit = fs::read_to_string(format!("{root}{group}/{file}")).ok();
        // "max" is no number, and no limit.
        found.extend(limit.and_then(|text| text.trim().parse::<u64>().ok()));
        match group.rfind('/') {
            Some(cut) => group = &group[..cut],
            None => return found,
        }
    }
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splice::policy::STREAM_BUFFER_LEAST;

    #[test]
    fn reads_the_machine_s_memory() {
        assert_eq!(total_memory("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(total_memory("nothing"), None);
    }

    #[test]
    fn sixty_four_flows_share_eight_mebibytes() {
        let grants = Grants::new(8 << 20);
        let given: Vec<Grant> = (0..64).map(|_| grants.take()).collect();
        assert!(given.iter().all(|grant| grant.0 >= GRANT_LEAST));
        // If all of them stall both ways, and the kernel's last segments are as large as they may be.
        assert!(grants.given.load(Ordering::Relaxed) < 15 << 20, "{given:?}");
        given.iter().for_each(|grant| grants.give_back(*grant));
        assert_eq!(grants.given.into_inner(), 0);
    }

    /// Budget and flows that have their grants already, in MiB and number; what a flow asks for beyond its own, in KiB,
    /// and how often that is given.
    #[test]
    fn a_flow_outgrows_its_grant_while_half_of_the_budget_is_free() {
        for (budget, flows, asked, given) in
            [(8, 0, 128, 28), (8, 8, 128, 3), (8, 64, 1, 0), (1024, 0, 16 << 10, 31), (1024, 1000, 1, 0)]
        {
            let grants = Arc::new(Grants::new(budget << 20));
            let others: Vec<Grant> = (0..flows).map(|_| grants.take()).collect();
            let mut room = Room::new(grants.take(), &grants);
            let before = grants.given.load(Ordering::Relaxed);
            let got = (0..1000).filter(|_| room.more.take(asked << 10)).count();
            assert_eq!(got, given, "{budget} MiB, {flows} flows, {asked} KiB");
            drop(room);
            assert_eq!(grants.given.load(Ordering::Relaxed), before);
            drop(others);
        }
    }

    /// However the first flow grows in one direction, 63 more that stall both ways leave the sum within two budgets.
    #[test]
    fn what_has_grown_leaves_room_for_those_yet_to_come() {
        let grants = Arc::new(Grants::new(8 << 20));
        let mut first = Room::new(grants.take(), &grants);
        while first.more.take(64 << 10) {}
        for _ in 1..64 {
            grants.take();
        }
        assert!(grants.given.load(Ordering::Relaxed) <= 16 << 20, "{grants:?}");
    }

    #[test]
    fn the_parts_of_a_grant_fit_into_it() {
        let least = Grant(GRANT_LEAST);
        let parts = least.receive_buffer().unwrap() + least.in_hand() + least.unsent() as usize;
        assert!(parts as u64 <= GRANT_LEAST, "{parts}");
        assert_eq!((GRANT_LEAST, least.receive_buffer()), (96 << 10, Some(64 << 10)));
        let copied = least.in_hand().max(STREAM_BUFFER_LEAST);
        let room = Room::new(least, &Arc::new(Grants::new(0)));
        assert!(room.receive + (room.unsent + copied) as u64 <= GRANT_LEAST, "{room:?}");
        let most = Grant(GRANT_MOST);
        assert_eq!((most.receive_buffer(), most.unsent()), (None, UNSENT_MOST));
    }

    #[test]
    fn a_budget_is_never_nothing() {
        assert!(default_bytes() > 1 << 20);
    }
}
