//! An agent says hello with everything it holds; each attempt gets its verdict.

use std::collections::{BTreeMap, BTreeSet};

use slipway_core::id::AgentId;
use slipway_core::lease::grantor::Attempt;
use slipway_core::queue::{Agent, AgentState};
use slipway_core::trigger::outside::PROVEN;
use slipway_proto::convert::AttemptKey;
use slipway_proto::v1;
use slipway_store::{LiveStage, StoreError};

use crate::api::auth::PeerAgent;
use crate::state::App;
use crate::usecases::cut_off_agent::named;

/// Slots that one agent may claim.
const SLOTS_MAX: u32 = 256;
/// Attempts that one hello may list.
const HELD_MAX: usize = 1_024;
/// Length of a fact about the host.
const FACT_MAX: usize = 100;

/// What a hello comes to.
pub(super) struct Greeting {
    /// The answer.
    pub(super) welcome: v1::Welcome,
    /// What it can do.
    pub(super) facts: Agent,
    /// What it goes on with.
    pub(super) kept: Vec<Attempt>,
    /// What we thought it holds, and it does not.
    pub(super) disowned: Vec<Attempt>,
}

/// Judges a hello.
pub(super) async fn greet(
    app: &App,
    agent: &PeerAgent,
    hello: &v1::Hello,
    epoch: i64,
) -> Result<Greeting, StoreError> {
    let ours = app.db.held_by_agent(&agent.id).await?;
    let ours: BTreeMap<Attempt, LiveStage> = ours
        .into_iter()
        .filter_map(|row| Some((named(&row)?, row)))
        .collect();
    let mut verdicts = Vec::new();
    let mut kept = Vec::new();
    let mut named: BTreeSet<Attempt> = BTreeSet::new();
    for held in hello.held.iter().take(HELD_MAX) {
        let Ok(key) = AttemptKey::try_from(held.attempt.clone()) else {
            continue;
        };
        let attempt = (key.stage.clone(), key.attempt);
        let finished = held.state() == v1::HeldState::Finished;
        let verdict = match ours.get(&attempt) {
            Some(_) if finished => v1::Verdict::SendResult,
            Some(row) if row.cancel_ms.is_some() => v1::Verdict::Kill,
            Some(_) => v1::Verdict::Keep,
            // An outcome that is still unknown takes the late result of its own attempt.
            None if finished && is_unknown(app, &agent.id, &key).await? => v1::Verdict::SendResult,
            None => v1::Verdict::Kill,
        };
        if ours.contains_key(&attempt) {
            kept.push(attempt.clone());
        }
        named.insert(attempt);
        verdicts.push(v1::HeldVerdict {
            attempt: held.attempt.clone(),
            verdict: verdict.into(),
        });
    }
    let disowned = ours.into_keys().filter(|a| !named.contains(a)).collect();
    Ok(Greeting {
        welcome: v1::Welcome {
            epoch: u64::try_from(epoch).unwrap_or(0),
            verdicts,
            lease_ms: millis(app.settings.terms.lease),
            renew_ms: millis(app.settings.terms.renew),
        },
        facts: facts(agent, hello, app.settings.terms.silent),
        kept,
        disowned,
    })
}

pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn is_unknown(app: &App, agent: &AgentId, key: &AttemptKey) -> Result<bool, StoreError> {
    let row = app.db.stage(&key.stage).await?;
    Ok(row.is_some_and(|row| {
        row.state == "unknown"
            && row.attempt == i64::from(key.attempt)
            && row.agent_id.as_deref() == Some(agent.as_str())
    }))
}

/// Labels that gate placement come from the join record; of the agent's own word only the
/// architecture is taken.
fn facts(agent: &PeerAgent, hello: &v1::Hello, silent_max: std::time::Duration) -> Agent {
    let mut labels: BTreeMap<String, String> =
        serde_json::from_str(&agent.row.labels).unwrap_or_default();
    let facts = hello.facts.clone().unwrap_or_default();
    // Its own word, and yet worth something: it can only take work away from itself, unless it lies, and
    // an agent that lies about its sandbox has no sandbox.
    labels.remove(PROVEN.0);
    if facts.strict_proven {
        labels.insert(PROVEN.0.to_owned(), PROVEN.1.to_owned());
    }
    if !facts.architecture.is_empty() && facts.architecture.len() <= FACT_MAX {
        labels
            .entry("arch".to_owned())
            .or_insert(facts.architecture);
    }
    Agent {
        state: AgentState::from(agent.row.state.as_str()),
        connected: true,
        silent: std::time::Duration::ZERO,
        silent_max,
        slots: hello.slots.min(SLOTS_MAX),
        labels,
        disk_free: percent(facts.disk_free_bytes, facts.disk_total_bytes),
        cpu_pressure: 0.0,
        memory_pressure: 0.0,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a percentage")]
fn percent(part: u64, whole: u64) -> f32 {
    if whole == 0 {
        return 100.0;
    }
    (part as f32 / whole as f32 * 100.0).clamp(0.0, 100.0)
}
