//! Agents talk to the dispatcher that leads; one that reaches another is sent there.

use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use slipway_proto::v1;
use slipway_proto::v1::dispatcher_message::Message;
use tonic::Status;

use crate::link::Outgoing;
use crate::state::{App, Lead};

/// How long an agent is kept waiting while nobody leads: longer than an election takes.
const PARKED: Duration = Duration::from_secs(20);

/// Who leads; waits for an election to end.
pub(super) async fn found(app: &App) -> Lead {
    let mut lead = app.lead.subscribe();
    let known = lead.wait_for(|lead| *lead != Lead::Nobody);
    match tokio::time::timeout(PARKED, known).await {
        Ok(Ok(lead)) => lead.clone(),
        _ => Lead::Nobody,
    }
}

/// A stream that says where to go, and ends.
pub(super) fn redirect(address: String) -> Pin<Box<dyn Stream<Item = Outgoing> + Send>> {
    let message = Message::Redirect(v1::Redirect { address });
    let message = v1::DispatcherMessage {
        message: Some(message),
    };
    Box::pin(tokio_stream::once(Ok(message)))
}

pub(super) fn nobody() -> Status {
    Status::unavailable("no dispatcher leads now; try again")
}

/// Refuses output and artifacts where their attempts are not looked after.
pub(super) async fn is_here(app: &App) -> Result<(), Status> {
    match found(app).await {
        Lead::Own(_) => Ok(()),
        Lead::Other(address) => Err(Status::unavailable(format!(
            "another dispatcher leads: {address}"
        ))),
        Lead::Nobody => Err(nobody()),
    }
}
