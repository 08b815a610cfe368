//! Our own router, over its unix socket, or over mutual TLS.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use slipway_core::access::PeerRole;
use slipway_core::gate::{Counts, Histogram};
use slipway_core::traffic::{Fence, TrafficTable};
use slipway_identity::Own;
use slipway_proto::convert::{table_from_wire, table_to_wire};
use slipway_proto::v1;
use slipway_proto::v1::router_client::RouterClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::{Reading, Traffic, TrafficError};

/// A router answers from memory and one small write: whatever takes longer hangs.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// How much longer than the instance the router may take to say what it said.
const ASK_SLACK: Duration = Duration::from_secs(1);

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

    /// At `address`, `https://host:port`: as `own`, and nobody but a router of this installation answers.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub fn remote(address: &str, own: &Own) -> Result<Self, TrafficError> {
        let channel = own.channel(address, PeerRole::Router);
        let channel = channel.map_err(|e| TrafficError::Refused(format!("{e:#}")))?;
        Ok(Self { channel })
    }

    fn client(&self) -> RouterClient<Channel> {
        RouterClient::new(self.channel.clone()).max_decoding_message_size(slipway_proto::DECODE_MAX)
    }
}

fn wire(fence: Fence) -> v1::Fence {
    v1::Fence {
        token: fence.token,
        generation: fence.generation,
        idempotency_key: format!("{}-{}", fence.token, fence.generation),
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
        self.prepare(fence, table).await?;
        self.commit(fence, table).await
    }

    async fn prepare(&self, fence: Fence, table: &TrafficTable) -> Result<(), TrafficError> {
        let prepare = v1::PrepareRequest {
            fence: Some(wire(fence)),
            table: Some(table_to_wire(table)),
        };
        within(CALL_LIMIT, self.client().prepare(prepare))
            .await
            .map(drop)
    }

    async fn commit(&self, fence: Fence, table: &TrafficTable) -> Result<(), TrafficError> {
        let commit = v1::CommitRequest {
            service: table.service.clone(),
            fence: Some(wire(fence)),
            table_hash: table.hash().to_string(),
        };
        within(CALL_LIMIT, self.client().commit(commit))
            .await
            .map(drop)
    }

    async fn tables(&self) -> Result<Vec<TrafficTable>, TrafficError> {
        let request = v1::ReadRequest::default();
        let answer = within(CALL_LIMIT, self.client().read(request)).await?;
        let tables = answer.services.into_iter().filter_map(|found| found.table);
        let tables: Result<Vec<_>, _> = tables.map(table_from_wire).collect();
        tables.map_err(|error| TrafficError::Unknown(error.to_string()))
    }

    async fn ask(
        &self,
        _id: &str,
        address: &str,
        path: &str,
        limit: Duration,
    ) -> Option<Result<(u16, Vec<u8>), String>> {
        let ask = v1::AskRequest {
            address: address.to_owned(),
            path: path.to_owned(),
            within_ms: u32::try_from(limit.as_millis()).unwrap_or(u32::MAX),
        };
        let answer = within(limit.saturating_add(ASK_SLACK), self.client().ask(ask)).await;
        Some(match answer {
            Ok(answer) if answer.trouble.is_empty() => {
                Ok((u16::try_from(answer.status).unwrap_or(0), answer.body))
            }
            Ok(answer) => Err(answer.trouble),
            Err(error) => Err(format!("cannot be asked through its router: {error}")),
        })
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
        ..Reading::default()
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
