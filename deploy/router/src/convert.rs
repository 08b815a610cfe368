//! The control conversation's values, wire ↔ core. Whatever is missing is refused, never guessed.

use std::sync::atomic::Ordering;

use slipway_core::traffic::{Fence, TrafficTable};
use slipway_proto::convert::{table_from_wire, table_to_wire};
use slipway_proto::v1;
use tonic::Status;

use crate::counters::VersionState;
use crate::services::Reading;

/// Waits longer than this for a first byte are typing errors.
const UPSTREAM_TIMEOUT_MAX_MS: u64 = 3_600_000;

pub(crate) fn fence(wire: Option<v1::Fence>) -> Result<Fence, Status> {
    let wire = wire.ok_or_else(|| Status::invalid_argument("field `fence` is missing"))?;
    if wire.token == 0 {
        return Err(Status::invalid_argument(
            "field `fence.token` must be above 0",
        ));
    }
    Ok(Fence {
        token: wire.token,
        generation: wire.generation,
    })
}

pub(crate) fn table(wire: Option<v1::TrafficTable>) -> Result<TrafficTable, Status> {
    let wire = wire.ok_or_else(|| Status::invalid_argument("field `table` is missing"))?;
    if wire.upstream_timeout_ms == 0 || wire.upstream_timeout_ms > UPSTREAM_TIMEOUT_MAX_MS {
        return Err(Status::invalid_argument(
            "field `upstream_timeout_ms` must be 1 ms … 1 h",
        ));
    }
    table_from_wire(wire)
        .map_err(|error| Status::invalid_argument(format!("field `stickiness`: {error}")))
}

pub(crate) fn state(reading: &Reading) -> v1::TableState {
    let seen = reading.kept.seen;
    let prepared = reading.kept.prepared.as_ref();
    v1::TableState {
        service: reading.service.name.clone(),
        token: seen.map_or(0, |seen| seen.fence.token),
        generation: seen.map_or(0, |seen| seen.fence.generation),
        table_hash: seen.map(|seen| seen.hash.to_string()).unwrap_or_default(),
        prepared_hash: prepared
            .map(|(_, table)| table.hash().to_string())
            .unwrap_or_default(),
    }
}

pub(crate) fn service_state(reading: &Reading) -> v1::ServiceState {
    v1::ServiceState {
        state: Some(state(reading)),
        table: reading.kept.active.as_ref().map(table_to_wire),
        counters: reading
            .service
            .versions()
            .iter()
            .map(|(version, state)| counters(version, state))
            .collect(),
        tripped_version: reading
            .kept
            .tripped
            .as_ref()
            .map(|t| t.version.clone())
            .unwrap_or_default(),
        tripped_reason: reading
            .kept
            .tripped
            .as_ref()
            .map(|t| t.reason.clone())
            .unwrap_or_default(),
    }
}

fn counters(version: &str, state: &VersionState) -> v1::VersionCounters {
    // Parts before the whole: see where they are counted.
    let half_bad = state.half_bad.load(Ordering::Relaxed);
    let half_completed = state.half_completed.load(Ordering::Relaxed);
    v1::VersionCounters {
        version: version.to_owned(),
        status_5xx: state.status_5xx.load(Ordering::Relaxed),
        connect_failed: state.connect_failed.load(Ordering::Relaxed),
        reset: state.reset.load(Ordering::Relaxed),
        timed_out: state.timed_out.load(Ordering::Relaxed),
        client_aborted: state.client_aborted.load(Ordering::Relaxed),
        in_flight: state.in_flight.count(),
        completed: state.completed.load(Ordering::Relaxed),
        half_completed,
        half_bad,
        latency: state.latency.read(),
    }
}
