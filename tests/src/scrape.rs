//! Reads a Prometheus page and asks it questions.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context;

/// The series of one page.
#[derive(Debug, Clone, Default)]
pub struct Page {
    series: Vec<Series>,
}

#[derive(Debug, Clone)]
pub struct Series {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Page {
    /// GET /metrics at `address`.
    pub fn get(address: SocketAddr) -> anyhow::Result<Page> {
        let body =
            http_get(address, "/metrics").with_context(|| format!("reading metrics from {address}"))?;
        Ok(Page::parse(&body))
    }

    pub fn parse(text: &str) -> Page {
        Page { series: text.lines().filter(|line| !line.starts_with('#')).filter_map(parse_line).collect() }
    }

    /// All series whose name ends so (a name without the binary's prefix finds it in both binaries).
    pub fn ending<'a>(&'a self, suffix: &'a str) -> impl Iterator<Item = &'a Series> {
        self.series.iter().filter(move |series| series.name.ends_with(suffix))
    }

    /// All series of that name ending and with all of `labels`.
    fn fitting<'a>(
        &'a self,
        suffix: &'a str,
        labels: &'a [(&str, &str)],
    ) -> impl Iterator<Item = &'a Series> {
        self.ending(suffix).filter(move |series| {
            labels.iter().all(|(name, value)| series.labels.get(*name).is_some_and(|had| had == value))
        })
    }

    /// Whether there is such a series, whatever its value.
    pub fn has(&self, suffix: &str, labels: &[(&str, &str)]) -> bool {
        self.fitting(suffix, labels).next().is_some()
    }

    /// The sum over all series of that name ending and with all of `labels`; 0 without any.
    pub fn sum(&self, suffix: &str, labels: &[(&str, &str)]) -> f64 {
        self.fitting(suffix, labels).map(|series| series.value).sum()
    }

    /// The sums of one name ending by the values of one label.
    pub fn by(&self, suffix: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for series in self.ending(suffix) {
            if let Some(value) = series.labels.get(label) {
                *sums.entry(value.clone()).or_default() += series.value;
            }
        }
        sums
    }
}

/// The body of a GET over HTTP/1.0; any status but 200 is an error.
pub fn http_get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut socket = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    anyhow::ensure!(status == "200", "GET {path} was answered with {status}: {body}");
    Ok(body.to_owned())
}

fn parse_line(line: &str) -> Option<Series> {
    let (left, value) = line.rsplit_once(' ')?;
    let (name, labels) = match left.split_once('{') {
        None => (left, BTreeMap::new()),
        Some((name, rest)) => (name, parse_labels(rest.strip_suffix('}')?)),
    };
    Some(Series { name: name.to_owned(), labels, value: value.parse().ok()? })
}

/// Our label values hold no quotes and no commas inside quotes, which keeps this short.
fn parse_labels(text: &str) -> BTreeMap<String, String> {
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_by_label() {
        let page = Page::parse(
            "# HELP x y\na_flow_bytes_total{path=\"mux\",engine=\"copy\"} 3\n\
             a_flow_bytes_total{path=\"lane-raw\",engine=\"splice\"} 4\na_flow_bytes_total{path=\"mux\",engine=\"x\"} 5\n",
        );
        assert_eq!(page.sum("flow_bytes_total", &[("path", "mux")]), 8.0);
        assert_eq!(page.by("flow_bytes_total", "path")["lane-raw"], 4.0);
        assert_eq!(page.sum("other", &[]), 0.0);
        assert!(page.has("flow_bytes_total", &[("path", "mux"), ("engine", "x")]));
        assert!(!page.has("flow_bytes_total", &[("path", "lane-raw"), ("engine", "x")]));
    }
}
