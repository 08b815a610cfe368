//! Asking a coordinator for rollouts as a deployer would, and waiting for what becomes of one.
//!
//! Does not start the coordinator, and does not say what is deployed.

use std::net::SocketAddr;
use std::time::Duration;

use slipway_core::access::PeerRole;
use slipway_identity::{Authority, connect};
use slipway_proto::v1;
use slipway_proto::v1::rollouts_client::RolloutsClient;
use slipway_store::{Db, RolloutRow};
use tonic::transport::Channel;

use crate::eventually;

/// The coordinator at an address, known by its installation's authority.
///
/// # Panics
/// When that is no address.
#[must_use]
pub fn client(at: SocketAddr, authority: &Authority) -> RolloutsClient<Channel> {
    let known_by = authority.fingerprint();
    let channel = connect::pinned(&format!("https://{at}"), PeerRole::Deployer, &known_by);
    RolloutsClient::new(channel.expect("an address"))
}

/// A message with a token.
///
/// # Panics
/// When that is no token.
pub fn signed<T>(secret: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let value = format!("Bearer {secret}").parse().expect("a header");
    request.metadata_mut().insert("authorization", value);
    request
}

/// Takes a rollout back; the id of what does it.
///
/// # Panics
/// When it is refused.
pub async fn roll_back(mut at: RolloutsClient<Channel>, secret: &str, id: &str) -> String {
    let ask = v1::RollBackRequest {
        deployment_id: id.to_owned(),
        reason: "it is bad".to_owned(),
        to: String::new(),
    };
    let asked = at.roll_back(signed(secret, ask)).await;
    asked.expect("accepted").into_inner().deployment_id
}

/// Waits until a rollout is as it should be; says what it is like when it never was.
///
/// # Panics
/// When it was not so `within` that time.
pub async fn reaches(
    db: &Db,
    (id, what): (&str, &str),
    within: Duration,
    good: impl Fn(&RolloutRow) -> bool,
) -> RolloutRow {
    let what = format!("rollout {id} {what}");
    let reached = eventually(&what, within, || async {
        let row = db.rollout(id).await.expect("readable").expect("there");
        good(&row).then_some(row)
    });
    match reached.await {
        Ok(row) => row,
        Err(error) => panic!("{error}: {:#?}", db.rollout(id).await),
    }
}
