//! What an agent counts and tells of the packets on its control streams.

use std::time::{Duration, Instant};

use crate::mux::Observer;
use crate::net::seldom::Seldom;
use crate::ops::metrics::{AgentMetrics, GaugeGuard, Segment};
use crate::wire::code;
use crate::wire::ids::ConnId;

pub(super) struct ServerPackets {
    pub metrics: AgentMetrics,
    /// `--warn-on-channel-limit`
    pub warns: bool,
}

impl Observer for ServerPackets {
    fn sent(&self, kind: &'static str) {
        self.metrics.packet(Segment::FromAgent, kind);
    }

    fn received(&self, kind: &'static str) {
        self.metrics.packet(Segment::ToAgent, kind);
    }

    fn unsent(&self, kind: &'static str) {
        self.metrics.stream_error(Segment::FromAgent, code::name(tonic::Code::Unavailable), kind);
    }

    fn pauses(&self, full: ConnId) -> Option<GaugeGuard> {
        // A flow whose reader is slow is full again and again.
        static SAID: Seldom = Seldom::new(Duration::from_secs(10));
        self.metrics.konduit.mux_paused();
        if self.warns && SAID.take(Instant::now()) {
            // Upstream's words.
            tracing::warn!(connection_id = %full, "Data channel on agent is full");
        }
        None
    }

    fn gave_up(&self, conn: ConnId) {
        tracing::warn!(%conn, "Ended a flow that nobody read");
        self.metrics.konduit.flow_ended_by_us("stalled");
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::flow::FlowTable;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn full_channels_are_told_of_once_in_a_while_where_that_is_wanted() {
        let metrics = AgentMetrics::new(&FlowTable::new()).unwrap();
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let told = || String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let quiet = ServerPackets { metrics: metrics.clone(), warns: false };
            quiet.pauses(ConnId(3));
            assert_eq!(told(), "");
            let warns = ServerPackets { metrics, warns: true };
            for conn in 4..7 {
                warns.pauses(ConnId(conn));
            }
        });
        let told = told();
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.contains("Data channel on agent is full") && told.contains("connection_id=4"), "{told}");
    }
}
