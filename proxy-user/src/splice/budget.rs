//! How many bytes the flows of this process may hold back, unless the operator says.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use super::policy::{GRANT_LEAST, GRANT_MOST, GRANT_SHARE};

/// The budget of all flows, handed out as they come: each gets a fixed part of what is left, so that the sum stays
/// within the budget until everybody gets the least.
pub(super) struct Grants {
    budget: u64,
    given: AtomicU64,
}

impl Grants {
    pub(super) fn new(budget: u64) -> Grants {
        Grants { budget, given: AtomicU64::new(0) }
    }

    /// Bytes that a new flow may hold back in each direction.
    pub(super) fn take(&self) -> u64 {
        let left = self.budget.saturating_sub(self.given.load(Ordering::Relaxed));
        let grant = (left / GRANT_SHARE).clamp(GRANT_LEAST, GRANT_MOST);
        self.given.fetch_add(grant, Ordering::Relaxed);
        grant
    }

    pub(super) fn give_back(&self, grant: u64) {
        self.given.fetch_sub(grant, Ordering::Relaxed);
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
fn container_limit() -> Option<u64> {
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

    #[test]
    fn reads_the_machine_s_memory() {
        assert_eq!(total_memory("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(total_memory("nothing"), None);
    }

    #[test]
    fn sixty_four_flows_share_eight_mebibytes() {
        let grants = Grants::new(8 << 20);
        let given: Vec<u64> = (0..64).map(|_| grants.take()).collect();
        assert!(given.iter().all(|grant| *grant >= GRANT_LEAST));
        assert!(given.iter().sum::<u64>() < 12 << 20, "{given:?}");
        given.iter().for_each(|grant| grants.give_back(*grant));
        assert_eq!(grants.given.into_inner(), 0);
    }

    #[test]
    fn a_budget_is_never_nothing() {
        assert!(default_bytes() > 1 << 20);
    }
}
