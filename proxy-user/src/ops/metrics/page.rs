//! What a scrape is answered, as Go's `promhttp.Handler` answers it: packed for who asks for that, whole or the
//! families that were named, and counted.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::StatusCode;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, HeaderValue};
use prometheus::{Error, IntCounterVec, IntGauge, Registry};

use super::make::Maker;
use super::{GaugeGuard, encode_families};
use crate::ops::http::{Ask, Page};

/// The page of one process, on whichever listener it is asked for. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ScrapePage {
    registry: Registry,
    scrapes: IntCounterVec,
    in_flight: IntGauge,
}

impl ScrapePage {
    /// Of everything that is, or will be, in the registry. Once for each.
    pub fn new(registry: &Registry) -> Result<ScrapePage, Error> {
        let make = Maker { registry, prefix: "promhttp_metric_handler_" };
        let scrapes =
            make.counter_vec("requests_total", "Total number of scrapes by HTTP status code.", &["code"])?;
        for code in ["200", "500", "503"] {
            scrapes.with_label_values(&[code]);
        }
        let in_flight = make.gauge("requests_in_flight", "Current number of scrapes being served.")?;
        Ok(ScrapePage { registry: registry.clone(), scrapes, in_flight })
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub fn answer(&self, ask: &Ask) -> Page {
        let _in_flight = GaugeGuard::new(&self.in_flight);
        let page = match self.text(ask) {
            Ok(text) => sent(text, &ask.headers),
            Err(error) => Page::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("the metrics cannot be written as text: {error}\n"),
            ),
        };
        self.scrapes.with_label_values(&[page.status.as_str()]).inc();
        page
    }

    fn text(&self, ask: &Ask) -> Result<Vec<u8>, Error> {
        let mut families = self.registry.gather();
        let named: Vec<&str> = ask
            .queries()
            .filter(|(key, _)| matches!(*key, "name[]" | "name%5B%5D"))
            .map(|(_, name)| name)
            .collect();
        if !named.is_empty() {
            families.retain(|family| named.contains(&family.name()));
        }
        encode_families(&families)
    }
}

fn sent(text: Vec<u8>, headers: &HeaderMap) -> Page {
    let of = |body: Vec<u8>| Page::of("text/plain; version=0.0.4; charset=utf-8", StatusCode::OK, body);
    match takes_gzip(headers).then(|| pack(&text)) {
        Some(Ok(packed)) => of(packed).with(CONTENT_ENCODING, HeaderValue::from_static("gzip")),
        // Memory takes every byte; should it not, whoever asked for packed bytes reads others too.
        Some(Err(_)) | None => of(text),
    }
}

fn pack(text: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut packed = GzEncoder::new(Vec::with_capacity(text.len() / 4), Compression::fast());
    packed.write_all(text)?;
    packed.finish()
}

/// RFC 9110, 12.5.3; a weight of 0 forbids.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let named = |wanted: &str| {
        let all = headers.get_all(ACCEPT_ENCODING).into_iter().filter_map(|value| value.to_str().ok());
        all.flat_map(|value| value.split(',')).find_map(|coding| {
            let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
            let weight = weight.trim().strip_prefix("q=").unwrap_or("1").trim().parse::<f32>();
            name.trim().eq_ignore_ascii_case(wanted).then(|| weight.is_ok_and(|weight| weight > 0.0))
        })
    };
    named("gzip").or_else(|| named("*")).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use http::{Method, Uri};

    use super::*;

    fn page() -> ScrapePage {
        let registry = Registry::new();
        let make = Maker { registry: &registry, prefix: "x_" };
        make.counter("one", "1.").unwrap();
        make.counter("two", "2.").unwrap();
        ScrapePage::new(&registry).unwrap()
    }

    fn ask(uri: &str, encoding: Option<&str>) -> Ask {
        let mut headers = HeaderMap::new();
        if let Some(encoding) = encoding {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_str(encoding).unwrap());
        }
        Ask { method: Method::GET, uri: uri.parse::<Uri>().unwrap(), headers }
    }

    #[test]
    fn who_takes_packed_bytes_gets_them_and_nobody_else() {
        for (encoding, packed) in [
            (None, false),
            (Some("gzip"), true),
            (Some("zstd, GZIP;q=0.5"), true),
            (Some("*"), true),
            (Some("identity"), false),
            (Some("gzip;q=0, *"), false),
            (Some("br;q=1, gzip ; q=0"), false),
            (Some(""), false),
        ] {
            let page = page().answer(&ask("/metrics", encoding));
            let named = page.headers.iter().any(|(name, value)| name == CONTENT_ENCODING && value == "gzip");
            assert_eq!(named, packed, "{encoding:?}");
            let mut text = String::new();
            match packed {
                true => GzDecoder::new(&page.body[..]).read_to_string(&mut text).unwrap(),
                false => (&page.body[..]).read_to_string(&mut text).unwrap(),
            };
            assert!(text.contains("\nx_one 0\n") && text.contains("\nx_two 0\n"), "{encoding:?}: {text}");
        }
    }

    #[test]
    fn families_that_are_named_are_all_there_is() {
        for query in ["name[]=x_one&name[]=x_three", "name%5B%5D=x_one"] {
            let page = page().answer(&ask(&format!("/metrics?{query}"), None));
            assert_eq!(page.body, "# HELP x_one 1.\n# TYPE x_one counter\nx_one 0\n", "{query}");
        }
    }

    /// As Go's: a scrape sees itself in flight, and is counted when it is over.
    #[test]
    fn scrapes_are_counted() {
        let page = page();
        page.answer(&ask("/metrics", None));
        let text = page.answer(&ask("/metrics", None)).body;
        let text = std::str::from_utf8(&text).unwrap();
        for line in [
            "promhttp_metric_handler_requests_in_flight 1",
            "promhttp_metric_handler_requests_total{code=\"200\"} 1",
            "promhttp_metric_handler_requests_total{code=\"500\"} 0",
            "promhttp_metric_handler_requests_total{code=\"503\"} 0",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
        }
    }
}
