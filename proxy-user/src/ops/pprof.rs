//! `/debug/pprof`: what this program can tell of itself in pprof's format, and plain words for the rest.
//!
//! The CPU profile is per thread (each thread is one frame): it says whether engine, tokio or log threads burn
//! the time. For stacks, `perf record` works with the release binary as it is. The heap profile is per mapping: what
//! counts against a container's limit, told apart from what the kernel may take back. By allocation site it would cost
//! every allocation of a program that makes few.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use prost::Message;

use super::admin::explain;
use super::http::{Ask, Page};

/// Longest profile that one request may ask for.
const LONGEST: u64 = 300;
const DEFAULT_SECONDS: u64 = 30;

const INDEX: &str = "Profiles of this process:
  profile?seconds=30   CPU time by thread, in pprof's format: go tool pprof http://HOST:PORT/debug/pprof/profile
  heap                 resident memory by mapping, in the same format; in words with ?debug=1
Not kept by this program: allocs, block, goroutine, mutex, threadcreate, trace.
For stacks use perf: perf record -g -p PID
";

pub(super) async fn answer(name: &str, ask: &Ask) -> Page {
    match name {
        "" => Page::text(StatusCode::OK, INDEX),
        "profile" => {
            let seconds = ask.query("seconds").and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_SECONDS);
            file(
                "attachment; filename=\"profile\"",
                cpu(Duration::from_secs(seconds.clamp(1, LONGEST))).await,
            )
        }
        "heap" if ask.query("debug").is_some_and(|debug| debug != "0") => {
            Page::text(StatusCode::OK, memory())
        }
        "heap" => {
            // The kernel walks the page tables for it.
            match tokio::fs::read_to_string("/proc/self/smaps").await {
                Ok(smaps) => {
                    let profile = profile(["inuse_space", "bytes"], resident(&smaps), Duration::ZERO);
                    file("attachment; filename=\"heap\"", profile.encode_to_vec().into())
                }
                Err(error) => {
                    let why = format!("Cannot read /proc/self/smaps: {error}.");
                    explain(StatusCode::INTERNAL_SERVER_ERROR, &why)
                }
            }
        }
        "symbol" => Page::text(StatusCode::OK, "num_symbols: 1\n"),
        "trace" => {
            explain(StatusCode::NOT_IMPLEMENTED, "There is no execution trace: this is not a Go program.")
        }
        "allocs" | "block" | "goroutine" | "mutex" | "threadcreate" => explain(
            StatusCode::NOT_IMPLEMENTED,
            &format!("There is no {name} profile: this is not a Go program."),
        ),
        _ => Page::not_found(),
    }
}

fn file(disposition: &'static str, profile: Bytes) -> Page {
    Page::of("application/octet-stream", StatusCode::OK, profile)
        .with(header::CONTENT_DISPOSITION, HeaderValue::from_static(disposition))
}

/// CPU time that each thread used during `span`.
async fn cpu(span: Duration) -> Bytes {
    let before = thread_times();
    tokio::time::sleep(span).await;
    let mut used: HashMap<String, u64> = HashMap::new();
    for (thread, (name, after)) in thread_times() {
        let start = before.get(&thread).map_or(0, |(_, time)| *time);
        *used.entry(format!("thread {name}")).or_default() += after.saturating_sub(start);
    }
    profile(["cpu", "nanoseconds"], used, span).encode_to_vec().into()
}

/// Resident bytes of each file that is mapped, of what belongs to none, and of what the kernel names.
fn resident(smaps: &str) -> HashMap<String, u64> {
    let (mut sizes, mut name) = (HashMap::new(), String::new());
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Rss:") => {
                let kib: u64 = words.next().and_then(|number| number.parse().ok()).unwrap_or(0);
                *sizes.entry(name.clone()).or_default() += kib * 1024;
            }
            // A mapping's first line: addresses, permissions, offset, device, inode, name.
            Some(word) if !word.ends_with(':') => {
                name = words.skip(4).collect::<Vec<_>>().join(" ");
                if name.is_empty() {
                    name = "[anonymous]".to_owned();
                }
            }
            _ => {}
        }
    }
    sizes
}

/// Name and CPU nanoseconds of every thread.
fn thread_times() -> HashMap<String, (String, u64)> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let times = threads.filter_map(|thread| {
        let name = std::fs::read_to_string(thread.path().join("comm")).ok()?;
        let schedule = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let nanos = schedule.split_whitespace().next()?.parse().ok()?;
        let number = thread.file_name().to_string_lossy().into_owned();
        Some((number, (name.trim().to_owned(), nanos)))
    });
    times.collect()
}

fn memory() -> String {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup");
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kept = |line: &&str| line.starts_with("Vm") || line.starts_with("Rss") || line.starts_with("Threads");
    let status: Vec<&str> = status.lines().filter(kept).collect();
    format!(
        "What the kernel says of this process's memory:\n\n{}\n\n{}",
        status.join("\n"),
        rollup.unwrap_or_default()
    )
}

/// pprof's message: one value type and its unit, one location and function per name.
fn profile(
    [kind, unit]: [&str; 2],
    samples: impl IntoIterator<Item = (String, u64)>,
    span: Duration,
) -> Profile {
    let mut strings = vec![String::new(), kind.to_owned(), unit.to_owned()];
    let kind = ValueType { kind: 1, unit: 2 };
    let mut profile = Profile {
        sample_type: vec![kind],
        duration_nanos: i64::try_from(span.as_nanos()).unwrap_or(i64::MAX),
        period_type: Some(kind),
        period: 1,
        ..Profile::default()
    };
    for (name, value) in samples.into_iter().filter(|(_, value)| *value > 0) {
        let id = profile.function.len() as u64 + 1;
        let text = strings.len() as i64;
        strings.push(name);
        profile.function.push(Function { id, name: text, system_name: text });
        profile.location.push(Location { id, line: vec![FrameLine { function_id: id }] });
        profile
            .sample
            .push(Sample { location_id: vec![id], value: vec![i64::try_from(value).unwrap_or(i64::MAX)] });
    }
    profile.string_table = strings;
    profile
}

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<FrameLine>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct FrameLine {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_names_what_it_counts_and_for_whom() {
        let samples = [("thread engine-0".to_owned(), 7), ("thread idle".to_owned(), 0)];
        let made = profile(["cpu", "nanoseconds"], samples, Duration::from_secs(1));
        let read = Profile::decode(&*made.encode_to_vec()).unwrap();
        assert_eq!(read.sample.len(), 1);
        assert_eq!(read.string_table[read.sample_type[0].unit as usize], "nanoseconds");
        assert_eq!(read.string_table[read.function[0].name as usize], "thread engine-0");
        assert_eq!((read.sample[0].value[0], read.sample[0].location_id[0]), (7, read.location[0].id));
    }

    #[test]
    fn this_test_has_a_thread_that_used_time() {
        assert!(thread_times().values().any(|(_, nanos)| *nanos > 0));
    }

    #[test]
    fn resident_memory_is_summed_by_mapping() {
        let smaps = "7f00-7f10 rw-p 00000000 00:00 0 \nSize: 64 kB\nRss: 12 kB\nVmFlags: rd wr\n\
                     7f20-7f30 r-xp 00001000 08:01 77 /a program\nRss: 4 kB\n\
                     7f30-7f40 r--p 00002000 08:01 77 /a program\nRss: 8 kB\n\
                     7f50-7f60 rw-p 00000000 00:00 0 [heap]\nRss: 16 kB\n";
        let sizes = resident(smaps);
        let kib = |name: &str| sizes.get(name).map(|size| size / 1024);
        assert_eq!((kib("[anonymous]"), kib("/a program"), kib("[heap]")), (Some(12), Some(12), Some(16)));
        assert_eq!(sizes.len(), 3);
    }

    #[test]
    fn memory_is_told_in_words() {
        assert!(memory().contains("VmRSS"));
    }
}
