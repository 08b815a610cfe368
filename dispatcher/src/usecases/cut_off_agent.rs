//! An agent is gone for good, by a person's word or because its machine was taken away: the store has it
//! so already, and nothing may come from it any more.

use slipway_core::access::PeerRole;
use slipway_core::id::{AgentId, StageId};
use slipway_core::lease::grantor::Attempt;
use slipway_store::{LiveStage, StoreError};

use crate::loops::scheduling::Nudge;
use crate::state::App;

/// Closes its connections; what it holds is lost to it at once.
///
/// # Errors
/// When the store is away: its leases end by themselves.
pub async fn cut_off_agent(app: &App, agent: AgentId) -> Result<(), StoreError> {
    app.connections.close_peer(PeerRole::Agent, agent.as_str());
    app.link.drop_agent(&agent);
    let held = app.db.held_by_agent(&agent).await?;
    let disowned = held.iter().filter_map(named).collect();
    let _stopping = app.nudge.send(Nudge::Removed(agent, disowned)).await;
    Ok(())
}

/// An attempt's row by its name.
#[must_use]
pub fn named(row: &LiveStage) -> Option<Attempt> {
    let stage: StageId = row.stage_id.parse().ok()?;
    Some((stage, u32::try_from(row.attempt).ok()?))
}
