//! `/debug/pprof`: what this program can tell of itself in pprof's format, and plain words for the rest.
//!
//! The CPU profile is per thread (each thread is one frame): it says whether engine, tokio or log threads burn
//! the time. For stacks, `perf record` works with the release binary as it is.

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
  heap                 memory of the process, in words
Not kept by this program: allocs, block, goroutine, mutex, threadcreate, trace.
For stacks use perf: perf record -g -p PID
";

pub(super) async fn answer(name: &str, ask: &Ask) -> Page {
    match name {
        "" => Page::text(StatusCode::OK, INDEX),
        "profile" => {
            let seconds = ask.query("seconds").and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_SECONDS);
            let profile = cpu(Duration::from_secs(seconds.clamp(1, LONGEST))).await;
            Page::of("application/octet-stream", StatusCode::OK, profile).with(
                header::CONTENT_DISPOSITION,
                HeaderValue::from_static("attachment; filename=\"profile\""),
            )
        }
        "heap" => Page::text(StatusCode::OK, memory()),
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

/// CPU time that each thread used during `span`.
async fn cpu(span: Duration) -> Bytes {
    let before = thread_times();
    tokio::time::sleep(span).await;
    let mut used: HashMap<String, u64> = HashMap::new();
    for (thread, (name, after)) in thread_times() {
        let start = before.get(&thread).map_or(0, |(_, time)| *time);
        *used.entry(name).or_default() += after.saturating_sub(start);
    }
    profile(used.into_iter().filter(|(_, nanos)| *nanos > 0), span).encode_to_vec().into()
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
        "There is no heap profile by allocation site. What the kernel says of this process's memory:\n\n{}\n\n{}",
        status.join("\n"),
        rollup.unwrap_or_default()
    )
}

/// pprof's message: one value type (CPU nanoseconds), one location and function per thread name.
fn profile(samples: impl Iterator<Item = (String, u64)>, span: Duration) -> Profile {
    let mut strings = vec![String::new(), "cpu".to_owned(), "nanoseconds".to_owned()];
    let cpu = ValueType { kind: 1, unit: 2 };
    let mut profile = Profile {
        sample_type: vec![cpu],
        duration_nanos: i64::try_from(span.as_nanos()).unwrap_or(i64::MAX),
        period_type: Some(cpu),
        period: 1,
        ..Profile::default()
    };
    for (name, nanos) in samples {
        let id = profile.function.len() as u64 + 1;
        let text = strings.len() as i64;
        strings.push(format!("thread {name}"));
        profile.function.push(Function { id, name: text, system_name: text });
        profile.location.push(Location { id, line: vec![FrameLine { function_id: id }] });
        profile
            .sample
            .push(Sample { location_id: vec![id], value: vec![i64::try_from(nanos).unwrap_or(i64::MAX)] });
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
    fn a_profile_names_its_threads() {
        let made = profile([("engine-0".to_owned(), 7)].into_iter(), Duration::from_secs(1));
        let read = Profile::decode(&*made.encode_to_vec()).unwrap();
        assert_eq!(read.string_table[read.function[0].name as usize], "thread engine-0");
        assert_eq!((read.sample[0].value[0], read.sample[0].location_id[0]), (7, read.location[0].id));
    }

    #[test]
    fn this_test_has_a_thread_that_used_time() {
        assert!(thread_times().values().any(|(_, nanos)| *nanos > 0));
    }

    #[test]
    fn memory_is_told_in_words() {
        assert!(memory().contains("VmRSS"));
    }
}
