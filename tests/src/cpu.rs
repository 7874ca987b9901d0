//! CPU time of the whole machine and of single processes.

use std::fs;
use std::io::{Error, ErrorKind, Result};

/// The kernel counts /proc/stat and /proc/PID/stat in hundredths of a second on every Linux of ours (USER_HZ).
const TICK: f64 = 0.01;

/// Whose CPU time counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// All processors, whoever used them: the true cost where nothing else runs.
    Machine,
    /// These processes only: what can be had beside other work. Kernel threads are missed.
    Processes(Vec<u32>),
}

impl Whose {
    /// CPU seconds used so far.
    pub fn used(&self) -> Result<f64> {
        match self {
            Whose::Machine => Cpu::now().map(|cpu| cpu.busy as f64 * TICK),
            Whose::Processes(pids) => pids.iter().map(|pid| of_process(*pid)).sum(),
        }
    }
}

/// Busy time since boot, of all processors.
#[derive(Debug, Clone, Copy)]
struct Cpu {
    busy: u64,
}

impl Cpu {
    fn now() -> Result<Cpu> {
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().unwrap_or_default();
        let fields: Vec<u64> =
            line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal; guest time is inside user.
        match fields[..] {
            [user, nice, system, _idle, _iowait, irq, softirq, ..] => {
                Ok(Cpu { busy: user + nice + system + irq + softirq })
            }
            _ => Err(Error::new(ErrorKind::InvalidData, "the first line of /proc/stat is not the cpu line")),
        }
    }
}

/// CPU seconds that a process has used so far, its children not counted.
pub fn of_process(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold spaces; what follows it does not.
    let after = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after.split(' ').collect();
    let tick = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Ok((tick(11) + tick(12)) as f64 * TICK)
}
