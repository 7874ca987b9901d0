//! The process metrics that every Prometheus client library has, read from /proc at each scrape.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Error, Gauge, Registry};
use rustix::process::Resource;

pub(super) fn register(registry: &Registry) -> Result<(), Error> {
    registry.register(Box::new(ProcessCollector::new()?))
}

struct ProcessCollector {
    cpu: Counter,
    resident: Gauge,
    virtual_size: Gauge,
    most_virtual: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    start: Gauge,
    threads: Gauge,
    received: Counter,
    sent: Counter,
}

impl ProcessCollector {
    fn new() -> Result<ProcessCollector, Error> {
        Ok(ProcessCollector {
            cpu: Counter::new(
                "process_cpu_seconds_total",
                "Total user and system CPU time spent in seconds.",
            )?,
            resident: Gauge::new("process_resident_memory_bytes", "Resident memory size in bytes.")?,
            virtual_size: Gauge::new("process_virtual_memory_bytes", "Virtual memory size in bytes.")?,
            most_virtual: Gauge::new(
                "process_virtual_memory_max_bytes",
                "Maximum amount of virtual memory available in bytes.",
            )?,
            open_fds: Gauge::new("process_open_fds", "Number of open file descriptors.")?,
            max_fds: Gauge::new("process_max_fds", "Maximum number of open file descriptors.")?,
            start: Gauge::new(
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
            )?,
            threads: Gauge::new("process_threads", "Number of OS threads in the process.")?,
            received: Counter::new(
                "process_network_receive_bytes_total",
                "Number of bytes received by the process over the network.",
            )?,
            sent: Counter::new(
                "process_network_transmit_bytes_total",
                "Number of bytes sent by the process over the network.",
            )?,
        })
    }

    fn gauges(&self) -> [&Gauge; 7] {
        [
            &self.resident,
            &self.virtual_size,
            &self.most_virtual,
            &self.open_fds,
            &self.max_fds,
            &self.start,
            &self.threads,
        ]
    }

    fn counters(&self) -> [&Counter; 3] {
        [&self.cpu, &self.received, &self.sent]
    }

    /// Leaves what cannot be read as it was.
    fn read(&self) -> Option<()> {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The command's name may hold blanks and brackets; the fields begin behind its last bracket.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<f64>().ok());
        let cpu = (field(14)? + field(15)?) / ticks;
        reach(&self.cpu, cpu);
        self.threads.set(field(20)?);
        self.virtual_size.set(field(23)?);
        self.resident.set(field(24)? * rustix::param::page_size() as f64);
        let boot = std::fs::read_to_string("/proc/stat").ok()?;
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse::<f64>().ok()?;
        self.start.set(boot + field(22)? / ticks);
        self.open_fds.set(std::fs::read_dir("/proc/self/fd").ok()?.count() as f64);
        self.max_fds.set(limit(Resource::Nofile).map_or(f64::INFINITY, |limit| limit as f64));
        // As Go, which has no word for none.
        self.most_virtual.set(limit(Resource::As).unwrap_or(u64::MAX) as f64);
        let counts = std::fs::read_to_string("/proc/self/net/netstat").ok()?;
        let mut octets = counts.lines().filter(|line| line.starts_with("IpExt:"));
        let (names, values) = (octets.next()?.split(' '), octets.next()?.split(' '));
        for (name, value) in names.zip(values) {
            match name {
                "InOctets" => reach(&self.received, value.parse().ok()?),
                "OutOctets" => reach(&self.sent, value.parse().ok()?),
                _ => {}
            }
        }
        Some(())
    }
}

fn limit(of: Resource) -> Option<u64> {
    rustix::process::getrlimit(of).current
}

fn reach(counter: &Counter, value: f64) {
    counter.inc_by((value - counter.get()).max(0.0));
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        let counters = self.counters().into_iter().flat_map(|counter| counter.desc());
        self.gauges().into_iter().flat_map(|gauge| gauge.desc()).chain(counters).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _ = self.read();
        let counters = self.counters().into_iter().flat_map(|counter| counter.collect());
        self.gauges().into_iter().flat_map(|gauge| gauge.collect()).chain(counters).collect()
    }
}
