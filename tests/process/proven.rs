//! Where this process has what the in-kernel engine asks for, every engine is proven. All other tests of that engine
//! skip themselves when it does not load, so that they pass wherever it cannot; this one fails where it can and does
//! not.

use std::fs;
use std::io::Write;
use std::process::Command;

use proxy_tests::konduit::binaries;

/// With their bits.
const RIGHTS: [(&str, u32); 3] = [("CAP_BPF", 39), ("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38)];
const LEAST_KERNEL: (u32, u32) = (6, 4);

/// What the machine, the kernel or this process's rights lack.
fn lack() -> Option<String> {
    if std::env::var_os("KONDUIT_NO_EBPF").is_some() {
        return Some("KONDUIT_NO_EBPF is set".to_owned());
    }
    if !rustix::process::geteuid().is_root() {
        return Some("this is not root".to_owned());
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let rights = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    let rights = u64::from_str_radix(rights.trim(), 16).unwrap();
    if let Some((name, _)) = RIGHTS.iter().find(|(_, bit)| rights & (1 << bit) == 0) {
        return Some(format!("{name} is missing"));
    }
    if fs::metadata("/sys/kernel/btf/vmlinux").is_err() {
        return Some("/sys/kernel/btf/vmlinux is missing".to_owned());
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let kernel = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (kernel < LEAST_KERNEL).then(|| format!("the kernel is {}", release.trim()))
}

#[test]
fn every_engine_is_proven_where_nothing_is_missing() {
    if let Some(lack) = lack() {
        // Past libtest's capture: a skip must be seen.
        let _ = writeln!(std::io::stderr(), "\n!!! SKIPPED, no engine was asked for: {lack}\n");
        return;
    }
    let doctor = Command::new(binaries().unwrap().join("proxy-agent"))
        // Of this program, whatever else runs on the machine.
        .args(["doctor", "--operator-socket="])
        .output()
        .unwrap();
    let report = String::from_utf8(doctor.stdout).unwrap();
    for engine in ["sockmap-tcp", "sockmap-unix", "splice"] {
        let line = format!("  {engine:13} proven by the start-up self-test");
        assert!(report.lines().any(|have| have == line), "{engine} is not proven\n{report}");
    }
}
