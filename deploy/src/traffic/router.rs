//! Our own router, over its unix socket.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use slipway_core::gate::{Counts, Histogram};
use slipway_core::traffic::{Fence, TrafficTable};
use slipway_proto::convert::{table_from_wire, table_to_wire};
use slipway_proto::v1;
use slipway_proto::v1::router_client::RouterClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::{Reading, Traffic, TrafficError};

/// A router is on this host: whatever takes longer hangs.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// A router at a socket. Connects when it is used, and again when it has to.
pub struct RouterTraffic {
    channel: Channel,
}

impl RouterTraffic {
    /// At `address`: `unix:///path/to/socket`.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub fn new(address: &str) -> Result<Self, TrafficError> {
        let Some(path) = address
            .strip_prefix("unix://")
            .filter(|path| path.starts_with('/'))
        else {
            let text = format!("router address `{address}` is not unix:///path/to/socket");
            return Err(TrafficError::Refused(text));
        };
        let endpoint = Endpoint::from_shared(format!("unix://{path}"));
        let endpoint = endpoint.map_err(|e| TrafficError::Refused(e.to_string()))?;
        let channel = endpoint.connect_timeout(CALL_LIMIT).connect_lazy();
        Ok(Self { channel })
    }

    fn client(&self) -> RouterClient<Channel> {
        RouterClient::new(self.channel.clone()).max_decoding_message_size(slipway_proto::DECODE_MAX)
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, TrafficError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(error(&status)),
        Err(_) => Err(TrafficError::Unknown(format!("no answer within {limit:?}"))),
    }
}

fn error(status: &Status) -> TrafficError {
    let seen = status.metadata().get("slipway-seen");
    if let Some(seen) = seen.and_then(|seen| seen.to_str().ok()?.parse().ok()) {
        return TrafficError::StaleToken { seen };
    }
    match status.code() {
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::NotFound
        | Code::ResourceExhausted => TrafficError::Refused(status.message().to_owned()),
        _ => TrafficError::Unknown(status.to_string()),
    }
}

#[async_trait]
impl Traffic for RouterTraffic {
    async fn apply(&self, fence: Fence, table: &TrafficTable) -> Result<(), TrafficError> {
        table
            .check()
            .map_err(|e| TrafficError::Refused(e.to_string()))?;
        let wire_fence = Some(v1::Fence {
            token: fence.token,
            generation: fence.generation,
            idempotency_key: format!("{}-{}", fence.token, fence.generation),
        });
        let prepare = v1::PrepareRequest {
            fence: wire_fence.clone(),
            table: Some(table_to_wire(table)),
        };
        within(CALL_LIMIT, self.client().prepare(prepare)).await?;
        let commit = v1::CommitRequest {
            service: table.service.clone(),
            fence: wire_fence,
            table_hash: table.hash().to_string(),
        };
        within(CALL_LIMIT, self.client().commit(commit))
            .await
            .map(drop)
    }

    async fn read(&self, service: &str) -> Result<Reading, TrafficError> {
        let request = v1::ReadRequest {
            service: service.to_owned(),
        };
        let answer = within(CALL_LIMIT, self.client().read(request)).await?;
        let found = answer.services.into_iter().next();
        Ok(match found {
            Some(found) => reading(&answer.boot_id, found)?,
            None => Reading::default(),
        })
    }

    async fn renew(&self, fence: Fence, service: &str) -> Result<(), TrafficError> {
        let renew = v1::RenewLeaseRequest {
            service: service.to_owned(),
            fence: Some(v1::Fence {
                token: fence.token,
                generation: fence.generation,
                idempotency_key: String::new(),
            }),
        };
        within(CALL_LIMIT, self.client().renew_lease(renew))
            .await
            .map(drop)
    }

    async fn drain(
        &self,
        service: &str,
        version: &str,
        deadline: Duration,
    ) -> Result<u32, TrafficError> {
        let request = v1::DrainRequest {
            service: service.to_owned(),
            version: version.to_owned(),
            deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
        };
        let limit = deadline.saturating_add(CALL_LIMIT);
        within(limit, self.client().drain(request))
            .await
            .map(|answer| answer.cut)
    }
}

fn reading(boot_id: &str, found: v1::ServiceState) -> Result<Reading, TrafficError> {
    let fence = found.state.map_or_else(Fence::default, |state| Fence {
        token: state.token,
        generation: state.generation,
    });
    let table = found.table.map(table_from_wire).transpose();
    let table = table.map_err(|error| TrafficError::Unknown(error.to_string()))?;
    Ok(Reading {
        fence,
        table,
        boot_id: boot_id.to_owned(),
        counters: found
            .counters
            .into_iter()
            .map(|counted| (counted.version.clone(), counts(&counted)))
            .collect::<BTreeMap<_, _>>(),
        tripped: (!found.tripped_version.is_empty())
            .then_some((found.tripped_version, found.tripped_reason)),
    })
}

fn counts(counted: &v1::VersionCounters) -> Counts {
    let bad = [counted.connect_failed, counted.reset, counted.timed_out];
    let bad = bad
        .into_iter()
        .fold(counted.status_5xx, u64::saturating_add);
    let mut latency = Histogram::default();
    for (bucket, count) in &counted.latency {
        if let Ok(bucket) = u16::try_from(*bucket) {
            latency.add(bucket, *count);
        }
    }
    Counts {
        total: counted.completed,
        bad,
        half_total: counted.half_completed,
        half_bad: counted.half_bad,
        latency,
        ..Counts::default()
    }
}
