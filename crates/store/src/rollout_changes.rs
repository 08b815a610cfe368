//! The engine's writes. Each is fenced by the owner's token and by the version of the row that the
//! decision was made from; a write that meets another token or version changes nothing.

use std::time::Duration;

use slipway_core::rollout::{Effect, LOCK_TTL, Phase, SAFETY_MARGIN, State, StepState};
use slipway_core::time::Timestamp;

use crate::audit::AuditEntry;
use crate::db::Db;
use crate::error::StoreError;
use crate::locks::{LockRow, required};
use crate::rollouts::{Number, RolloutRow, next_token, unsigned};
use crate::sql::{args, sql};
use crate::writer::Tx;

/// What becomes of the versions when a rollout ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing.
    None,
    /// The new version is good; every other one goes after `retain`.
    Proven {
        /// How long the others stay warm.
        retain: Duration,
    },
    /// The new version's instances were removed.
    Removed,
}

/// A move of a rollout, with everything that changes with it.
#[derive(Clone, Debug)]
pub struct RolloutChange {
    /// The state from now on.
    pub state: State,
    /// Share of the new version, percent.
    pub canary_percentage: f64,
    /// The fulfilled wish goes.
    pub wish_done: bool,
    /// The lock goes to the next in line.
    pub release_lock: bool,
    /// A new approval status.
    pub approval_status: Option<String>,
    /// A new plan hash.
    pub plan_hash: Option<String>,
    /// The step whose status changes, with that status and evidence.
    pub step: Option<(StepState, &'static str, Option<String>)>,
    /// An event for the history: kind and JSON.
    pub event: Option<(&'static str, String)>,
    /// What becomes of the versions.
    pub ending: Ending,
    /// Written in the same transaction.
    pub audit: Option<AuditEntry>,
}

impl RolloutChange {
    /// To `state`, and nothing else.
    #[must_use]
    pub fn to(state: State) -> Self {
        Self {
            state,
            canary_percentage: 0.0,
            wish_done: false,
            release_lock: false,
            approval_status: None,
            plan_hash: None,
            step: None,
            event: None,
            ending: Ending::None,
            audit: None,
        }
    }
}

fn fenced() -> StoreError {
    StoreError::Conflict(
        "fenced: another owner or another decision changed this deployment meanwhile".to_owned(),
    )
}

impl Db {
    /// Takes a rollout over: its owner, under a new token above `floor`. `None` = somebody else owns
    /// it, or it ended.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn claim_rollout(
        &self,
        row: &RolloutRow,
        owner: &str,
        lease: Duration,
        floor: u64,
        now: Timestamp,
    ) -> Result<Option<RolloutRow>, StoreError> {
        let (row, owner) = (row.clone(), owner.to_owned());
        let floor = i64::try_from(floor).unwrap_or(i64::MAX - 1);
        self.write(move |tx| {
            Box::pin(async move {
                let id = &row.deployment_id;
                let may = tx.rows::<Text>(sql!("deployments/claimable"), args![id, &owner, now]);
                if may.await?.is_empty() {
                    return Ok(None);
                }
                let place = args![&row.service_id, &row.environment_id];
                let lock: Option<LockRow> = tx.row(sql!("deploy_locks/get"), place).await?;
                // The place's token is its holder's: whoever only waits must not shut that one out.
                let token = if lock.is_some_and(|lock| lock.holder == *id) {
                    next_token(tx, &row.service_id, &row.environment_id, floor).await?
                } else {
                    row.token.saturating_add(1)
                };
                let claim = args![id, &owner, now, now.after(lease), token];
                if tx.execute(sql!("deployments/claim"), claim).await? != 1 {
                    return Ok(None);
                }
                let lock = args![id, token, now, now.after(LOCK_TTL)];
                tx.execute(sql!("deploy_locks/set_token"), lock).await?;
                tx.row(sql!("deployments/get"), args![id]).await
            })
        })
        .await
    }

    /// Keeps what `owner` owns; answers how many rollouts that are.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn renew_ownership(
        &self,
        owner: &str,
        lease: Duration,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let args = args![owner, now, now.after(lease)];
        self.write(move |tx| {
            Box::pin(async move { tx.execute(sql!("deployments/renew"), args).await })
        })
        .await
    }

    /// Stores a decision.
    ///
    /// # Errors
    /// `Conflict` when fenced; otherwise when it cannot be made durable.
    pub async fn change_rollout(
        &self,
        row: &RolloutRow,
        change: RolloutChange,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let row = row.clone();
        self.write(move |tx| Box::pin(async move { apply(tx, &row, &change, now).await }))
            .await
    }

    /// Stores the intent to do `effect` (P1): under the lock, with a new generation.
    ///
    /// # Errors
    /// `Conflict` when fenced or without a lock that lasts; otherwise when it cannot be made durable.
    pub async fn intend(
        &self,
        row: &RolloutRow,
        state: &State,
        effect: Effect,
        now: Timestamp,
    ) -> Result<StepState, StoreError> {
        let (row, state) = (row.clone(), state.clone());
        self.write(move |tx| {
            Box::pin(async move {
                let place = args![&row.service_id, &row.environment_id];
                let lock: Option<LockRow> = tx.row(sql!("deploy_locks/get"), place).await?;
                let until = now.after(SAFETY_MARGIN).as_millis();
                let ours = lock.is_some_and(|lock| {
                    lock.holder == row.deployment_id
                        && lock.token == row.token
                        && lock.expires_at > until
                });
                if !ours {
                    return Err(StoreError::Conflict(
                        "fenced: the lock is not ours, or runs out soon".to_owned(),
                    ));
                }
                let next = args![&row.service_id, &row.environment_id, row.token];
                let generation: Option<Number> =
                    tx.row(sql!("deploy_tokens/next_gen"), next).await?;
                let generation = required(generation, "deploy token").map_err(|_| fenced())?;
                let token = unsigned(row.token);
                let state = state.intended(effect, token, unsigned(generation), now);
                let step = state.step.clone().ok_or(StoreError::NotFound("step"))?;
                let mut change = RolloutChange::to(state);
                change.canary_percentage = row.canary_percentage;
                apply(tx, &row, &change, now).await?;
                let key = format!("{}-{}-{}", row.deployment_id, step.number, step.attempt);
                let desired = serde_json::to_string(&effect)
                    .map_err(|e| StoreError::Corrupt(e.to_string()))?;
                let put = args![
                    &row.deployment_id,
                    step.number,
                    step.attempt,
                    effect.as_str(),
                    desired,
                    row.token,
                    generation,
                    key,
                    now
                ];
                tx.execute(sql!("deployment_steps/put"), put).await?;
                Ok(step)
            })
        })
        .await
    }
}

#[derive(sqlx::FromRow)]
struct Text {
    #[expect(dead_code, reason = "only whether there is a row counts")]
    value: String,
}

async fn apply(
    tx: &mut Tx,
    row: &RolloutRow,
    change: &RolloutChange,
    now: Timestamp,
) -> Result<(), StoreError> {
    let state = &change.state;
    let json = serde_json::to_string(state).map_err(|e| StoreError::Corrupt(e.to_string()))?;
    let ended = state.phase.is_terminal().then_some(now);
    let started = state.phase.needs_lock().then_some(now);
    let args = args![
        &row.deployment_id,
        row.token,
        row.row_version,
        state.phase.as_str(),
        state.phase.public_status(),
        state.step_idx,
        json,
        state.reason.as_deref(),
        i64::from(state.phase.progress()),
        change.canary_percentage,
        state.pause.as_ref().map(|pause| pause.deadline),
        state.stable.as_deref(),
        change.approval_status.as_deref(),
        change.plan_hash.as_deref(),
        change.wish_done,
        started,
        ended
    ];
    if tx.execute(sql!("deployments/change"), args).await? != 1 {
        return Err(fenced());
    }
    if let Some((step, status, evidence)) = &change.step {
        let verified = (*status == "verified").then_some(now);
        let set = args![
            &row.deployment_id,
            step.number,
            step.attempt,
            *status,
            now,
            verified,
            evidence.as_deref()
        ];
        tx.execute(sql!("deployment_steps/set_status"), set).await?;
    }
    if let Some((kind, json)) = &change.event {
        let event = args![&row.deployment_id, now, *kind, json];
        tx.execute(sql!("deployment_events/insert"), event).await?;
    }
    end(tx, row, change, now).await?;
    if change.release_lock || state.phase.is_terminal() {
        tx.execute(sql!("deploy_locks/release"), args![&row.deployment_id])
            .await?;
        tx.execute(sql!("lock_waiters/remove"), args![&row.deployment_id])
            .await?;
    }
    match &change.audit {
        Some(audit) => audit.append(tx).await,
        None => Ok(()),
    }
}

async fn end(
    tx: &mut Tx,
    row: &RolloutRow,
    change: &RolloutChange,
    now: Timestamp,
) -> Result<(), StoreError> {
    match &change.ending {
        Ending::None => {}
        Ending::Removed => {
            let gone = args![&row.target_version, "gone"];
            tx.execute(sql!("versions/set_state"), gone).await?;
        }
        Ending::Proven { retain } => {
            tx.execute(sql!("versions/proven"), args![&row.target_version, now])
                .await?;
            let others = args![
                &row.service_id,
                &row.environment_id,
                &row.target_version,
                now.after(*retain)
            ];
            tx.execute(sql!("versions/retire_others"), others).await?;
            // What a rollback took away is not good any more: nothing goes back to it by itself.
            if row.kind == "rollback"
                && let Some(old) = &change.state.stable
            {
                tx.execute(sql!("versions/disproven"), args![old]).await?;
                let reason = format!("rolled back by {}", row.deployment_id);
                let undo = args![
                    &row.service_id,
                    &row.environment_id,
                    old,
                    reason,
                    &row.deployment_id
                ];
                tx.execute(sql!("deployments/undo"), undo).await?;
            }
        }
    }
    debug_assert!(change.ending == Ending::None || change.state.phase != Phase::Held);
    Ok(())
}
