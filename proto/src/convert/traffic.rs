//! Traffic tables.

use slipway_core::traffic::{CanaryLease, Instance, Share, TrafficTable, UnknownStickiness};

use crate::v1;

/// A table for the wire.
#[must_use]
pub fn table_to_wire(table: &TrafficTable) -> v1::TrafficTable {
    let version = |share: &Share| v1::Version {
        version: share.version.clone(),
        weight_bp: share.weight_bp,
        instances: share
            .instances
            .iter()
            .map(|instance| v1::Instance {
                id: instance.id.clone(),
                address: instance.address.clone(),
            })
            .collect(),
    };
    v1::TrafficTable {
        service: table.service.clone(),
        hosts: table.hosts.clone(),
        listen: table.listen.clone(),
        versions: table.versions.iter().map(version).collect(),
        upstream_timeout_ms: table.upstream_timeout_ms,
        canary: table.canary.clone(),
        stickiness: table.stickiness.to_string(),
        lease_ms: table.lease.map_or(0, |lease| lease.ms),
        revert_on_lease: table.lease.is_some_and(|lease| lease.revert),
    }
}

/// A table from the wire; whether it may carry traffic is for its own `check`.
///
/// # Errors
/// When it names a stickiness that there is not.
pub fn table_from_wire(wire: v1::TrafficTable) -> Result<TrafficTable, UnknownStickiness> {
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
        canary: wire.canary,
        stickiness: wire.stickiness.parse()?,
        lease: (wire.lease_ms > 0).then_some(CanaryLease {
            ms: wire.lease_ms,
            revert: wire.revert_on_lease,
        }),
    })
}
