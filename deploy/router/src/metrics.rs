//! The counters as `/metrics`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::access_log::AccessLog;
use crate::services::Services;

/// Reads the services at each scrape.
pub(crate) struct Traffic {
    pub(crate) services: Arc<Services>,
    pub(crate) log: AccessLog,
}

impl std::fmt::Debug for Traffic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Traffic")
    }
}

impl Collector for Traffic {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let services = self.services.all();
        let mut requests = encoder.encode_descriptor(
            "slipway_router_requests",
            "Requests that ended, per service, version and outcome",
            None,
            MetricType::Counter,
        )?;
        for (service, known) in services.iter() {
            for (version, state) in known.versions() {
                let outcomes = [
                    ("completed", &state.completed),
                    ("status_5xx", &state.status_5xx),
                    ("connect_failed", &state.connect_failed),
                    ("reset", &state.reset),
                    ("timed_out", &state.timed_out),
                    ("client_aborted", &state.client_aborted),
                ];
                for (outcome, counter) in outcomes {
                    let labels = [
                        ("service", service.as_str()),
                        ("version", version.as_str()),
                        ("outcome", outcome),
                    ];
                    let family = requests.encode_family(&labels)?;
                    ConstCounter::new(counter.load(Ordering::Relaxed)).encode(family)?;
                }
            }
        }
        let mut in_flight = encoder.encode_descriptor(
            "slipway_router_in_flight",
            "Requests in flight per service and version",
            None,
            MetricType::Gauge,
        )?;
        for (service, known) in services.iter() {
            for (version, state) in known.versions() {
                let labels = [("service", service.as_str()), ("version", version.as_str())];
                let value = i64::try_from(state.in_flight.count()).unwrap_or(i64::MAX);
                let family = in_flight.encode_family(&labels)?;
                ConstGauge::new(value).encode(family)?;
            }
        }
        let left_out = encoder.encode_descriptor(
            "slipway_router_access_log_left_out",
            "Lines that the access log could not take in time",
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(self.log.left_out()).encode(left_out)
    }
}
