//! Drives one rollout: load → observe → plan → persist → act, until it ended or is not ours.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use slipway_core::rollout::{
    self, Effect, Kind, LockView, Next, PauseWhy, Phase, RolloutPlan, Snapshot, State, StepState,
    Transition, Wish,
};
use slipway_core::time::Timestamp;
use slipway_daemon::border;
use slipway_store::{Ending, RolloutChange, RolloutRow, StoreError};

use super::effects::{self, EffectError};
use super::gates;
use super::observe::{self, Memory};
use super::record::{self, LastLook};
use crate::places::{Adapters, Policy, ServiceAddress};
use crate::run::Coordinator;
use crate::targets::Place;

/// After an effect or write that failed.
const BACK_OFF: Duration = Duration::from_secs(1);
/// Health is looked at this often while it decides something.
const HEALTH_TICK: Duration = Duration::from_millis(500);

/// One rollout under way.
pub(super) struct Driver<'a> {
    pub(super) coordinator: &'a Coordinator,
    pub(super) id: &'a str,
    pub(super) plan: Arc<RolloutPlan>,
    pub(super) place: Place,
    /// Its name at the router.
    pub(super) route: String,
    pub(super) address: ServiceAddress,
    pub(super) adapters: Adapters,
    pub(super) memory: Memory,
    last_look: LastLook,
}

/// What a turn came to.
enum Turned {
    /// Look again at once.
    Again,
    /// Look again then, or when nudged.
    After(Duration),
    /// It ended, or somebody else drives it.
    Done(&'static str),
}

/// Drives rollout `id` until it ended, is not ours, or shutdown.
pub(super) async fn drive(coordinator: &Coordinator, id: &str) {
    let nudge = coordinator.nudge_of(id);
    let mut driver: Option<Driver<'_>> = None;
    loop {
        let turned = match turn(coordinator, id, &mut driver).await {
            Ok(Turned::Again) => Duration::ZERO,
            Ok(Turned::After(wait)) => wait,
            Ok(Turned::Done(why)) => {
                tracing::info!(rollout = id, why, "driver ends");
                break;
            }
            Err(error) => {
                tracing::warn!(rollout = id, "rollout waits: {error:#}");
                BACK_OFF
            }
        };
        if coordinator.shutdown.has_begun() {
            break;
        }
        if !turned.is_zero() {
            tokio::select! {
                () = coordinator.shutdown.cancelled() => break,
                () = nudge.notified() => {}
                () = tokio::time::sleep(turned) => {}
            }
        }
    }
    coordinator.forget_nudge(id);
}

async fn turn<'a>(
    coordinator: &'a Coordinator,
    id: &'a str,
    driver: &mut Option<Driver<'a>>,
) -> anyhow::Result<Turned> {
    let Some(row) = coordinator.db.rollout(id).await? else {
        return Ok(Turned::Done("not stored"));
    };
    let now = coordinator.clock.now();
    if row.status != "in_progress" {
        return Ok(Turned::Done("ended"));
    }
    let ours = row.owner_id.as_deref() == Some(&coordinator.owner)
        && row
            .owner_expires_at
            .is_some_and(|until| until > now.as_millis());
    if !ours {
        return Ok(Turned::Done("somebody else may own it"));
    }
    if driver.is_none() {
        *driver = Some(open(coordinator, id, &row).await?);
    }
    let Some(driver) = driver.as_mut() else {
        return Ok(Turned::Again);
    };
    let state: State = serde_json::from_str(&row.state_json)?;
    let snapshot = driver.snapshot(&row, &state).await?;
    if driver.noted(&row, &state, &snapshot).await? {
        return Ok(Turned::Again);
    }
    record::record(coordinator, &mut driver.last_look, id, &snapshot).await;
    let decided = rollout::plan(&snapshot, now);
    tracing::debug!(rollout = id, phase = %state.phase, next = ?decided.next, "{}", decided.report);
    let done = driver.perform(&row, &state, &snapshot, &decided).await;
    match done {
        // Somebody changed the row meanwhile: a wish, an approval, another owner. Look again.
        Err(error) if is_conflict(&error) => Ok(Turned::After(Duration::from_millis(20))),
        other => other,
    }
}

fn is_conflict(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<StoreError>(),
        Some(StoreError::Conflict(_))
    )
}

async fn open<'a>(
    coordinator: &'a Coordinator,
    id: &'a str,
    row: &RolloutRow,
) -> anyhow::Result<Driver<'a>> {
    let plan: RolloutPlan = serde_json::from_str(&row.plan_json)?;
    let (environment, target) = coordinator.environment(&row.environment_id).await?;
    let adapters = coordinator
        .connect
        .connect(&target)
        .map_err(anyhow::Error::msg)?;
    Ok(Driver {
        coordinator,
        id,
        place: Place {
            service_id: row.service_id.clone(),
            environment_id: row.environment_id.clone(),
            service: row.service_name.clone(),
        },
        route: format!("{}/{}", row.service_name, environment.name),
        address: target.address_of(&row.service_name),
        plan: Arc::new(plan),
        adapters,
        memory: Memory::default(),
        last_look: LastLook::default(),
    })
}

impl Driver<'_> {
    async fn snapshot(&mut self, row: &RolloutRow, state: &State) -> anyhow::Result<Snapshot> {
        let coordinator = self.coordinator;
        let observed = observe::observe(self, row, state, rollout::needs(state)).await;
        let (environment, _) = coordinator.environment(&row.environment_id).await?;
        let (barred, awaited) = match state.phase {
            Phase::Planned | Phase::WaitLock => coordinator.barred(row, &self.plan).await?,
            _ => (None, false),
        };
        let policy: Policy = serde_json::from_str(&environment.policy)?;
        Ok(Snapshot {
            frozen: rollout::frozen(&policy.freeze, coordinator.clock.now()),
            plan: (*self.plan).clone(),
            state: state.clone(),
            token: u64::try_from(row.token)?,
            wish: row
                .wish
                .as_deref()
                .and_then(|wish| serde_json::from_str::<Wish>(wish).ok()),
            lock: self.lock(row).await?,
            approval: coordinator.judge_approvals(row, &self.plan).await?,
            plan_changed: self.plan.kind == Kind::Rollout
                && self.plan.hash(&environment.target) != row.plan_hash,
            barred,
            awaited,
            good_version: coordinator
                .good_version(&row.service_id, &row.environment_id)
                .await?,
            observed,
        })
    }

    async fn lock(&self, row: &RolloutRow) -> anyhow::Result<LockView> {
        let coordinator = self.coordinator;
        let lock = coordinator
            .db
            .lock(&row.service_id, &row.environment_id)
            .await?;
        let Some(lock) = lock.filter(|lock| lock.holder == row.deployment_id) else {
            return Ok(LockView::NotMine);
        };
        let last = coordinator.last_heartbeat_ms.load(Ordering::SeqCst);
        let age = coordinator
            .clock
            .ticks()
            .since(Timestamp::from_millis(last));
        if lock.token != row.token || rollout::is_lost(age) {
            return Ok(LockView::Lost);
        }
        Ok(LockView::Mine {
            expires_at: Timestamp::from_millis(lock.expires_at),
        })
    }

    async fn perform(
        &mut self,
        row: &RolloutRow,
        state: &State,
        snapshot: &Snapshot,
        decided: &rollout::Plan,
    ) -> anyhow::Result<Turned> {
        let coordinator = self.coordinator;
        let now = coordinator.clock.now();
        match &decided.next {
            Next::Wait => {
                let wait = decided.wake_at.since(now).max(Duration::from_millis(10));
                let needs = rollout::needs(state);
                let limit = if needs.health { HEALTH_TICK } else { wait };
                Ok(Turned::After(wait.min(limit)))
            }
            Next::Stop => Ok(Turned::Done("the lock is not ours")),
            Next::AskLock => self.ask_lock(row, state).await,
            Next::Enter(transition) => {
                self.enter(row, state, transition, &decided.report, None)
                    .await?;
                Ok(Turned::Again)
            }
            Next::Verified(Some(transition)) => {
                let step = state.step.clone();
                self.enter(row, state, transition, &decided.report, step)
                    .await?;
                Ok(Turned::Again)
            }
            Next::Verified(None) => {
                let mut change = RolloutChange::to(state.verified(now));
                change.canary_percentage = row.canary_percentage;
                change.step = state.step.clone().map(|step| (step, "verified", None));
                let effect = state.step.as_ref().map_or("", |step| step.effect.as_str());
                border::reach("before verified", effect);
                coordinator.db.change_rollout(row, change, now).await?;
                border::reach("after verified", effect);
                Ok(Turned::Again)
            }
            Next::Intend(effect) => {
                border::reach("before intent", effect.as_str());
                coordinator.db.intend(row, state, *effect, now).await?;
                border::reach("after intent", effect.as_str());
                Ok(Turned::Again)
            }
            Next::Call(_) => self.call(row, state, snapshot).await,
        }
    }

    async fn ask_lock(&self, row: &RolloutRow, state: &State) -> anyhow::Result<Turned> {
        let coordinator = self.coordinator;
        let now = coordinator.clock.now();
        border::reach("before lock", "");
        let answer = coordinator.db.ask_lock(row, now).await?;
        border::reach("after lock", "");
        match answer {
            rollout::LockAnswer::Granted | rollout::LockAnswer::AlreadyHeld => Ok(Turned::Again),
            rollout::LockAnswer::TimedOut => {
                let reason = "lock_timeout: waited 30 minutes for its turn";
                let failed = Transition::to(Phase::Failed, state.step_idx).because(reason);
                self.enter(row, state, &failed, reason, None).await?;
                Ok(Turned::Again)
            }
            // Its own driver resolves it, here or at whoever claims it.
            rollout::LockAnswer::Wait { .. } | rollout::LockAnswer::ResolveOrphan { .. } => {
                coordinator.new_work.notify_one();
                Ok(Turned::After(Duration::from_secs(2)))
            }
        }
    }

    async fn call(
        &mut self,
        row: &RolloutRow,
        state: &State,
        snapshot: &Snapshot,
    ) -> anyhow::Result<Turned> {
        let Some(step) = &state.step else {
            return Ok(Turned::Again);
        };
        let effect = step.effect.as_str();
        if matches!(step.effect, Effect::Route { new_bp } if new_bp > 0) {
            gates::begin(self, row, state).await?;
        }
        border::reach("before effect", effect);
        let carried_out = effects::carry_out(self, state, step).await;
        border::reach("after effect", effect);
        match carried_out {
            Ok(evidence) => {
                self.memory.refused = None;
                self.memory.partial = None;
                let now = self.coordinator.clock.now();
                let mut change = RolloutChange::to(state.applied(now));
                change.canary_percentage = row.canary_percentage;
                change.step = Some((step.clone(), "applied", Some(evidence.to_string())));
                self.coordinator.db.change_rollout(row, change, now).await?;
                border::reach("after applied", effect);
                Ok(Turned::Again)
            }
            Err(EffectError::Stale { seen }) => {
                tracing::warn!(rollout = self.id, effect, seen, "fenced by a newer token");
                // The store still says that it is ours: it forgot tokens (a restored copy). A token
                // above everything seen puts that right; if it is not ours, the claim is refused.
                if snapshot.token < seen && self.coordinator.claim(row, seen).await? {
                    return Ok(Turned::Again);
                }
                Ok(Turned::Done("fenced"))
            }
            // What a person did by hand is not undone behind their back, and nothing goes further.
            Err(EffectError::Foreign(why)) if state.phase == Phase::Shift => {
                let mut pause = Transition::to(Phase::Paused, state.step_idx).because(&why);
                pause.pause = PauseWhy::Foreign;
                self.enter(row, state, &pause, &why, None).await?;
                Ok(Turned::Again)
            }
            Err(error) => {
                let why = error.to_string();
                if matches!(error, EffectError::Partial(_)) && state.phase == Phase::Shift {
                    self.memory.partial = Some(why.clone());
                }
                self.not_done(step.effect, error);
                tracing::warn!(
                    rollout = self.id,
                    effect,
                    why,
                    "outcome unknown: reads back"
                );
                Ok(Turned::After(BACK_OFF))
            }
        }
    }

    /// Writes down which hosts cannot be reached, when that changed.
    async fn noted(
        &self,
        row: &RolloutRow,
        state: &State,
        snapshot: &Snapshot,
    ) -> anyhow::Result<bool> {
        let now = self.coordinator.clock.now();
        let hosts = rollout::troubles(&snapshot.observed.hosts, &state.hosts, now);
        if hosts == state.hosts {
            return Ok(false);
        }
        for host in &snapshot.observed.hosts {
            if let Some(text) = host.trouble() {
                tracing::warn!(rollout = self.id, why = host.why, "{text}");
            }
        }
        let texts: Vec<&str> = hosts.iter().map(|host| host.text.as_str()).collect();
        let event = serde_json::json!({ "hosts": texts });
        let mut next = state.clone();
        next.hosts.clone_from(&hosts);
        let mut change = RolloutChange::to(next);
        change.canary_percentage = row.canary_percentage;
        change.event = Some(("hosts", event.to_string()));
        self.coordinator.db.change_rollout(row, change, now).await?;
        Ok(true)
    }

    /// Remembers since when the target says no to an effect.
    pub(super) fn not_done(&mut self, effect: Effect, error: EffectError) {
        let EffectError::Refused(why) = error else {
            return;
        };
        let now = self.coordinator.clock.monotonic();
        let known = self.memory.refused.take();
        let known = known.filter(|(known, ..)| *known == effect);
        let since = known.map_or(now, |(_, since, _)| since);
        self.memory.refused = Some((effect, since, why));
    }

    /// Stores a move, with everything that changes with it.
    async fn enter(
        &self,
        row: &RolloutRow,
        state: &State,
        transition: &Transition,
        report: &str,
        verified: Option<StepState>,
    ) -> anyhow::Result<()> {
        let coordinator = self.coordinator;
        let now = coordinator.clock.now();
        let next = state.entered(transition, now, self.plan.timings.pause_ms);
        let mut change = RolloutChange::to(next);
        change.canary_percentage = match verified.as_ref().map(|step| step.effect) {
            Some(Effect::Route { new_bp }) => f64::from(new_bp) / 100.0,
            Some(Effect::Seal) => 100.0,
            _ => row.canary_percentage,
        };
        change.wish_done = transition.wish_done;
        change.release_lock = transition.release_lock;
        change.step = verified.map(|step| (step, "verified", None));
        change.ending = self.ending(state, transition.phase);
        if transition.phase == Phase::AwaitApproval && state.phase == Phase::WaitLock {
            let (environment, _) = coordinator.environment(&row.environment_id).await?;
            change.approval_status = Some("pending".to_owned());
            change.plan_hash = Some(self.plan.hash(&environment.target));
            change.audit = Some(coordinator.audit(
                ("system", "coordinator"),
                "deployment.approval_void",
                &row.deployment_id,
                serde_json::json!({ "was": row.plan_hash }),
            ));
        }
        let event = serde_json::json!({
            "from": state.phase,
            "phase": transition.phase,
            "report": report,
            "reason": change.state.reason,
            "canary_percentage": change.canary_percentage,
        });
        change.event = Some(("phase", event.to_string()));
        let phase = transition.phase;
        border::reach("before phase", phase.as_str());
        coordinator.db.change_rollout(row, change, now).await?;
        border::reach("after phase", phase.as_str());
        tracing::info!(rollout = self.id, from = %state.phase, to = %phase, "{report}");
        if phase.is_terminal() || transition.release_lock {
            coordinator.nudge_all();
        }
        Ok(())
    }

    fn ending(&self, state: &State, phase: Phase) -> Ending {
        let retain = Duration::from_millis(self.plan.timings.retain_old_ms);
        match (phase, self.plan.kind) {
            (Phase::Succeeded, _) => Ending::Proven { retain },
            (Phase::RolledBack, Kind::Rollout) => Ending::Removed,
            (Phase::Failed, Kind::Rollout) if !state.traffic_touched => Ending::Removed,
            _ => Ending::None,
        }
    }
}
