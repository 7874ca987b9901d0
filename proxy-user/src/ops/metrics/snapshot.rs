//! Families that are read from somebody's own counters at each scrape.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Error, IntCounterVec, IntGaugeVec, Opts};

/// Label values and the count under them.
pub(super) type Rows = Vec<(Vec<String>, u64)>;

enum Kind {
    Counter,
    Gauge,
}

/// One family, filled anew at each scrape. Rows with the same labels add up.
pub(super) struct Snapshot<F> {
    kind: Kind,
    opts: Opts,
    labels: &'static [&'static str],
    descs: Vec<Desc>,
    read: F,
}

impl<F: Fn() -> Rows + Send + Sync> Snapshot<F> {
    pub(super) fn counter(
        name: &str,
        help: &str,
        labels: &'static [&'static str],
        read: F,
    ) -> Result<Snapshot<F>, Error> {
        Snapshot::new(Kind::Counter, name, help, labels, read)
    }

    pub(super) fn gauge(
        name: &str,
        help: &str,
        labels: &'static [&'static str],
        read: F,
    ) -> Result<Snapshot<F>, Error> {
        Snapshot::new(Kind::Gauge, name, help, labels, read)
    }

    fn new(
        kind: Kind,
        name: &str,
        help: &str,
        labels: &'static [&'static str],
        read: F,
    ) -> Result<Snapshot<F>, Error> {
        let opts = Opts::new(name, help);
        let descs = IntCounterVec::new(opts.clone(), labels)?.desc().into_iter().cloned().collect();
        Ok(Snapshot { kind, opts, labels, descs, read })
    }

    fn families(&self) -> Result<Vec<MetricFamily>, Error> {
        let rows = (self.read)();
        match self.kind {
            Kind::Counter => {
                let family = IntCounterVec::new(self.opts.clone(), self.labels)?;
                for (labels, count) in rows {
                    family.get_metric_with_label_values(&labels)?.inc_by(count);
                }
                Ok(family.collect())
            }
            Kind::Gauge => {
                let family = IntGaugeVec::new(self.opts.clone(), self.labels)?;
                for (labels, count) in rows {
                    let count = i64::try_from(count).unwrap_or(i64::MAX);
                    family.get_metric_with_label_values(&labels)?.add(count);
                }
                Ok(family.collect())
            }
        }
    }
}

impl<F: Fn() -> Rows + Send + Sync> Collector for Snapshot<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // A row with the wrong number of labels would be our own mistake; a scrape shows the rest.
        self.families().unwrap_or_default()
    }
}
