//! What the machine and the container give: kernel, rights, memory, files.

use std::fmt;

use rustix::process::{Resource, getrlimit};

/// Capabilities that matter here, with their bits.
const RIGHTS: [(&str, u32); 6] = [
    ("CAP_BPF", 39),
    ("CAP_NET_ADMIN", 12),
    ("CAP_PERFMON", 38),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_SYS_NICE", 23),
    ("CAP_SYS_RESOURCE", 24),
];

/// A look at the machine.
#[derive(Debug, Clone)]
pub struct Machine {
    kernel: String,
    cpus: usize,
    rights: Option<u64>,
    memory_limit: Option<u64>,
    memory: Option<u64>,
    files: (Option<u64>, Option<u64>),
}

impl Machine {
    pub fn look() -> Machine {
        let files = getrlimit(Resource::Nofile);
        Machine {
            kernel: read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            rights: field("/proc/self/status", "CapEff:").and_then(|hex| u64::from_str_radix(&hex, 16).ok()),
            memory_limit: memory_limit(),
            memory: field("/proc/meminfo", "MemTotal:")
                .and_then(|kib| kib.parse::<u64>().ok())
                .map(|kib| kib << 10),
            files: (files.current, files.maximum),
        }
    }

    /// Whether this process has the capability with this name; `None` when that cannot be read.
    pub fn has(&self, right: &str) -> Option<bool> {
        let (_, bit) = RIGHTS.iter().find(|(name, _)| *name == right)?;
        Some(self.rights? >> bit & 1 == 1)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: Option<u64>| {
            bytes.map_or_else(|| "none".to_owned(), |bytes| format!("{} MiB", bytes >> 20))
        };
        writeln!(out, "Kernel: {}, CPUs: {}", self.kernel, self.cpus)?;
        writeln!(out, "Memory: {}, limit of the container: {}", mib(self.memory), mib(self.memory_limit))?;
        let count =
            |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
        writeln!(out, "Open files: {} of at most {}", count(self.files.0), count(self.files.1))?;
        let right = |(name, _): &(&str, u32)| match self.has(name) {
            Some(true) => format!("{name} yes"),
            Some(false) => format!("{name} no"),
            None => format!("{name} unknown"),
        };
        writeln!(out, "Rights: {}", RIGHTS.iter().map(right).collect::<Vec<_>>().join(", "))
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The first word behind `name` in a file of `name: words` lines.
fn field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next().map(str::to_owned)
}

/// Bytes, from cgroup v2, else v1; `None` when there is no limit.
fn memory_limit() -> Option<u64> {
    let v2 = read("/sys/fs/cgroup/memory.max").and_then(|text| text.parse().ok());
    let v1 = || read("/sys/fs/cgroup/memory/memory.limit_in_bytes").and_then(|text| text.parse().ok());
    // v1 writes "no limit" as a number near 2^63.
    v2.or_else(v1).filter(|limit: &u64| *limit < 1 << 60)
}
