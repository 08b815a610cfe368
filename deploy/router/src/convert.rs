//! The control conversation's values, wire ↔ core. Whatever is missing is refused, never guessed.

use std::sync::atomic::Ordering;

use slipway_core::traffic::{Fence, Instance, Share, TrafficTable};
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
    let share = |version: v1::Version| Share {
        version: version.version,
        weight_bp: version.weight_bp,
        instances: version
            .instances
            .into_iter()
            .map(|instance| Instance {
                id: instance.id,
                address: instance.address,
            })
            .collect(),
    };
    Ok(TrafficTable {
        service: wire.service,
        hosts: wire.hosts,
        listen: wire.listen,
        versions: wire.versions.into_iter().map(share).collect(),
        upstream_timeout_ms: wire.upstream_timeout_ms,
    })
}

pub(crate) fn table_to_wire(table: &TrafficTable) -> v1::TrafficTable {
    let version = |share: &Share| v1::Version {
        version: share.version.clone(),
        weight_bp: share.weight_bp,
        instances: share
            .instances
            .iter()
            .map(|i| v1::Instance {
                id: i.id.clone(),
                address: i.address.clone(),
            })
            .collect(),
    };
    v1::TrafficTable {
        service: table.service.clone(),
        hosts: table.hosts.clone(),
        listen: table.listen.clone(),
        versions: table.versions.iter().map(version).collect(),
        upstream_timeout_ms: table.upstream_timeout_ms,
    }
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
    }
}

fn counters(version: &str, state: &VersionState) -> v1::VersionCounters {
    v1::VersionCounters {
        version: version.to_owned(),
        completed: state.completed.load(Ordering::Relaxed),
        status_5xx: state.status_5xx.load(Ordering::Relaxed),
        connect_failed: state.connect_failed.load(Ordering::Relaxed),
        reset: state.reset.load(Ordering::Relaxed),
        timed_out: state.timed_out.load(Ordering::Relaxed),
        client_aborted: state.client_aborted.load(Ordering::Relaxed),
        in_flight: state.in_flight.load(Ordering::SeqCst),
    }
}
