//! Rollouts and versions.

use std::time::Duration;

use slipway_core::rollout::{Effect, LockAnswer, Phase, State, StepStatus, Transition};
use slipway_core::time::Timestamp;

use crate::{
    ApprovalRow, AuditEntry, Begun, Db, Ending, NewRollout, NewVersion, RolloutChange,
    RolloutFilter, RolloutRow, StoreError,
};

const LEASE: Duration = Duration::from_secs(15);

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + seconds * 1_000)
}

pub(super) fn audit(action: &str, id: &str) -> AuditEntry {
    AuditEntry {
        at: at(0),
        actor_type: "token".to_owned(),
        actor_id: "alice".to_owned(),
        address: String::new(),
        action: action.to_owned(),
        object_type: "deployment".to_owned(),
        object_id: id.to_owned(),
        detail: serde_json::Value::Null,
    }
}

pub(super) fn new_rollout(id: &str, kind: &str, key: Option<&str>) -> NewRollout {
    NewRollout {
        deployment_id: id.to_owned(),
        build_id: "build".to_owned(),
        initiator_id: "alice".to_owned(),
        service_id: "service".to_owned(),
        environment_id: "environment".to_owned(),
        target_environment: "production".to_owned(),
        strategy: "blue-green".to_owned(),
        source_version: None,
        target_version: id.to_owned(),
        approval_status: "pending".to_owned(),
        kind: kind.to_owned(),
        plan_json: "{}".to_owned(),
        plan_hash: "hash".to_owned(),
        state_json: serde_json::to_string(&State::planned(at(0))).unwrap_or_default(),
        idem_key: key.map(str::to_owned),
        version: (kind == "rollout").then(|| NewVersion {
            image: "shop@sha256:1".to_owned(),
            digest: "sha256:1".to_owned(),
            config_hash: "c".to_owned(),
            config_json: "{}".to_owned(),
        }),
        now: at(0),
        audit: audit("deployment.start", id),
    }
}

pub(super) async fn begun(db: &Db, id: &str) -> RolloutRow {
    db.ensure_service("service", "repo", "shop", at(0))
        .await
        .expect("a service");
    match db
        .begin_rollout(new_rollout(id, "rollout", None))
        .await
        .expect("stored")
    {
        Begun::New(row) => row,
        Begun::Existing(_) => panic!("it is new"),
    }
}

pub(super) async fn reload(db: &Db, id: &str) -> RolloutRow {
    db.rollout(id).await.expect("readable").expect("there")
}

pub(super) fn in_phase(row: &RolloutRow, phase: Phase) -> State {
    let state: State = serde_json::from_str(&row.state_json).expect("a state");
    state.entered(&Transition::to(phase, 0), at(1), 0)
}

pub(super) async fn owned(db: &Db, id: &str, owner: &str, seconds: i64) -> RolloutRow {
    let row = reload(db, id).await;
    let claimed = db
        .claim_rollout(&row, owner, LEASE, 0, at(seconds))
        .await
        .expect("claimed");
    claimed.expect("free to be claimed")
}

pub(super) async fn locked(db: &Db, id: &str, seconds: i64) -> RolloutRow {
    let row = owned(db, id, "a", seconds).await;
    assert_eq!(
        db.ask_lock(&row, at(seconds)).await.expect("asked"),
        LockAnswer::Granted
    );
    reload(db, id).await
}

/// The same key is the same rollout; the audit row is there.
pub async fn starting_twice_with_one_key_is_one_rollout(db: Db) {
    db.ensure_service("service", "repo", "shop", at(0))
        .await
        .expect("a service");
    let first = db
        .begin_rollout(new_rollout("d1", "rollout", Some("k")))
        .await
        .expect("stored");
    let Begun::New(first) = first else {
        panic!("it is new")
    };
    let again = db
        .begin_rollout(new_rollout("d2", "rollout", Some("k")))
        .await
        .expect("stored");
    assert_eq!(again, Begun::Existing(first));
    assert!(db.rollout("d2").await.expect("readable").is_none());
    let all = db
        .rollouts(&RolloutFilter {
            limit: 10,
            ..RolloutFilter::default()
        })
        .await;
    assert_eq!(all.expect("readable").len(), 1);
    assert_eq!(
        db.versions("service", "environment")
            .await
            .expect("readable")
            .len(),
        1
    );
}

/// A claim raises the token; the old owner's writes change nothing from then on.
pub async fn a_takeover_fences_the_old_owner(db: Db) {
    begun(&db, "d1").await;
    let old = owned(&db, "d1", "a", 0).await;
    let row = reload(&db, "d1").await;
    let too_early = db
        .claim_rollout(&row, "b", LEASE, 0, at(14))
        .await
        .expect("asked");
    assert!(too_early.is_none(), "the lease still runs");
    let new = db
        .claim_rollout(&row, "b", LEASE, 0, at(15))
        .await
        .expect("asked")
        .expect("free");
    assert!(new.token > old.token);
    let change = RolloutChange::to(in_phase(&old, Phase::WaitLock));
    let refused = db.change_rollout(&old, change.clone(), at(16)).await;
    assert!(
        matches!(refused, Err(StoreError::Conflict(_))),
        "{refused:?}"
    );
    db.change_rollout(&new, change, at(16))
        .await
        .expect("the new owner writes");
    assert_eq!(reload(&db, "d1").await.phase, "wait_lock");
    assert_eq!(
        db.renew_ownership("a", LEASE, at(17)).await.expect("asked"),
        0
    );
    assert_eq!(
        db.renew_ownership("b", LEASE, at(17)).await.expect("asked"),
        1
    );
}

/// The holder's token rises above what a router has seen; whoever waits shuts nobody out.
pub async fn a_claim_raises_the_token_of_the_holder_only(db: Db) {
    begun(&db, "d1").await;
    begun(&db, "d2").await;
    let holder = locked(&db, "d1", 0).await;
    owned(&db, "d2", "a", 1).await;
    let state = in_phase(&holder, Phase::Prepare);
    let step = db
        .intend(&holder, &state, Effect::EnsureNew { count: 2 }, at(2))
        .await;
    assert!(
        step.is_ok(),
        "a waiting rollout shut the holder out: {step:?}"
    );
    let row = reload(&db, "d1").await;
    let above = db
        .claim_rollout(&row, "a", LEASE, 500, at(3))
        .await
        .expect("asked");
    let above = above.expect("ours");
    assert_eq!(above.token, 501);
    let lock = db
        .lock("service", "environment")
        .await
        .expect("readable")
        .expect("held");
    assert_eq!(lock.token, 501);
    let state: State = serde_json::from_str(&above.state_json).expect("a state");
    let step = db
        .intend(&above, &state, Effect::EnsureNew { count: 2 }, at(4))
        .await
        .expect("written");
    assert_eq!(step.token, 501);
}

/// Two decisions from one row: one of them is told to look again.
pub async fn a_decision_from_an_old_row_is_refused(db: Db) {
    begun(&db, "d1").await;
    let row = owned(&db, "d1", "a", 0).await;
    assert!(
        db.wish("d1", "{}", audit("deployment.abort", "d1"))
            .await
            .expect("stored")
    );
    let change = RolloutChange::to(in_phase(&row, Phase::WaitLock));
    assert!(
        db.change_rollout(&row, change.clone(), at(1))
            .await
            .is_err()
    );
    let fresh = reload(&db, "d1").await;
    assert_eq!(fresh.wish.as_deref(), Some("{}"));
    let done = RolloutChange {
        wish_done: true,
        ..change
    };
    db.change_rollout(&fresh, done, at(1))
        .await
        .expect("from the present row");
    assert_eq!(reload(&db, "d1").await.wish, None);
}

/// An intent needs the lock, gets a new generation each time, and is one row per attempt.
pub async fn an_intent_is_written_under_the_lock_with_a_new_generation(db: Db) {
    begun(&db, "d1").await;
    let row = owned(&db, "d1", "a", 0).await;
    let state = in_phase(&row, Phase::Prepare);
    let refused = db
        .intend(&row, &state, Effect::EnsureNew { count: 2 }, at(1))
        .await;
    assert!(
        matches!(refused, Err(StoreError::Conflict(_))),
        "no lock: {refused:?}"
    );
    let row = locked(&db, "d1", 1).await;
    let refused = db
        .intend(&row, &state, Effect::EnsureNew { count: 2 }, at(1 + 541))
        .await;
    assert!(refused.is_err(), "the lock runs out too soon");
    let one = db
        .intend(&row, &state, Effect::EnsureNew { count: 2 }, at(2))
        .await
        .expect("written");
    let row = reload(&db, "d1").await;
    let state: State = serde_json::from_str(&row.state_json).expect("a state");
    assert_eq!(state.step.as_ref(), Some(&one));
    assert_eq!(one.status, StepStatus::Intent);
    let two = db
        .intend(&row, &state, Effect::EnsureNew { count: 2 }, at(3))
        .await
        .expect("written");
    assert!(two.generation > one.generation && two.attempt == 2 && two.number == one.number);

    let row = reload(&db, "d1").await;
    let state: State = serde_json::from_str(&row.state_json).expect("a state");
    let mut change = RolloutChange::to(state.applied(at(4)));
    change.step = Some((two, "applied", Some("{\"seen\":1}".to_owned())));
    db.change_rollout(&row, change, at(4))
        .await
        .expect("written");
    let steps = db.rollout_steps("d1").await.expect("readable");
    let seen: Vec<(i64, &str)> = steps
        .iter()
        .map(|s| (s.attempt, s.status.as_str()))
        .collect();
    assert_eq!(seen, [(1, "intent"), (2, "applied")]);
}

async fn succeeded(db: &Db, row: &RolloutRow, stable: Option<&str>, seconds: i64) {
    let mut state = in_phase(row, Phase::Succeeded);
    state.stable = stable.map(str::to_owned);
    let mut change = RolloutChange::to(state);
    change.ending = Ending::Proven {
        retain: Duration::from_secs(600),
    };
    db.change_rollout(row, change, at(seconds))
        .await
        .expect("ended");
}

/// What succeeded is good, and the others get their time.
pub async fn a_success_makes_a_version_good_and_the_others_retire(db: Db) {
    for (id, seconds) in [("d1", 0), ("d2", 100)] {
        begun(&db, id).await;
        let row = locked(&db, id, seconds).await;
        succeeded(&db, &row, None, seconds + 1).await;
    }
    let versions = db
        .versions("service", "environment")
        .await
        .expect("readable");
    assert_eq!(versions[0].version_id, "d2");
    assert_eq!(versions[0].retire_at, None);
    assert_eq!(versions[1].retire_at, Some(at(701).as_millis()));
    let first = reload(&db, "d1").await;
    assert_eq!(
        db.later_success(&first).await.expect("readable").as_deref(),
        Some("d2")
    );
    let seen = db
        .succeeded_with("service", "production", "sha256:1")
        .await
        .expect("readable");
    assert_eq!(seen.as_deref(), Some("d2"));
    assert!(
        db.versions_to_retire(at(700))
            .await
            .expect("readable")
            .is_empty()
    );
    assert_eq!(
        db.versions_to_retire(at(701))
            .await
            .expect("readable")
            .len(),
        1
    );
    let first = || async { db.version("d1").await.expect("readable").expect("there") };
    let due = first().await;
    assert!(db.begin_retirement(&due, at(701)).await.expect("asked"));
    db.version_is_gone("d1").await.expect("written");
    assert_eq!(first().await.state, "gone");
    assert!(
        db.versions_to_retire(at(999))
            .await
            .expect("readable")
            .is_empty()
    );
}

/// A rollback to a version whose removal is under way: whoever removes it does not write it down as gone again.
pub async fn a_version_that_is_wanted_again_is_not_gone(db: Db) {
    for (id, seconds) in [("d1", 0), ("d2", 100)] {
        begun(&db, id).await;
        let row = locked(&db, id, seconds).await;
        succeeded(&db, &row, None, seconds + 1).await;
    }
    let first = || async { db.version("d1").await.expect("readable").expect("there") };
    let due = first().await;
    assert!(db.begin_retirement(&due, at(701)).await.expect("asked"));
    assert_eq!(first().await.state, "stopped");
    db.revive_version("d1").await.expect("written");
    db.version_is_gone("d1").await.expect("written");
    let again = first().await;
    assert_eq!((again.state.as_str(), again.retire_at), ("warm", None));
    // One that is not due is left alone; what is left over of one that is gone is not.
    assert!(!db.begin_retirement(&again, at(999)).await.expect("asked"));
    let second = db.version("d2").await.expect("readable").expect("there");
    assert!(!db.begin_retirement(&second, at(999)).await.expect("asked"));
}

/// A rollback turns both around: what it took away is not good any more.
pub async fn a_rollback_undoes_a_success(db: Db) {
    for (id, seconds) in [("d1", 0), ("d2", 100)] {
        begun(&db, id).await;
        let row = locked(&db, id, seconds).await;
        succeeded(&db, &row, None, seconds + 1).await;
    }
    let mut back = new_rollout("r1", "rollback", None);
    back.target_version = "d1".to_owned();
    db.begin_rollout(back).await.expect("stored");
    let row = locked(&db, "r1", 200).await;
    // Nothing is retired while a rollout holds the place.
    assert!(
        db.versions_to_retire(at(701))
            .await
            .expect("readable")
            .is_empty()
    );
    let first = db.version("d1").await.expect("readable").expect("there");
    assert!(!db.begin_retirement(&first, at(701)).await.expect("asked"));
    succeeded(&db, &row, Some("d2"), 201).await;
    let versions = db
        .versions("service", "environment")
        .await
        .expect("readable");
    let good: Vec<(&str, bool)> = versions
        .iter()
        .map(|v| (v.version_id.as_str(), v.last_good_at.is_some()))
        .collect();
    assert_eq!(good, [("d1", true), ("d2", false)]);
    assert_eq!(versions[0].retire_at, None, "it serves again");
    assert_eq!(reload(&db, "d2").await.status, "rolled_back");
    assert_eq!(reload(&db, "r1").await.status, "completed");
}

/// A decision is kept with its audit row, and none comes in after the end.
pub async fn an_approval_is_recorded_until_the_rollout_ends(db: Db) {
    begun(&db, "d1").await;
    let approval = ApprovalRow {
        approver_id: "bob".to_owned(),
        plan_hash: "hash".to_owned(),
        asked_at: 0,
        expires_at: 1,
        method: "token".to_owned(),
        decision: "approved".to_owned(),
        reason: String::new(),
        rule_version: "approval-1".to_owned(),
        decided_at: 1,
    };
    let entry = || audit("deployment.approve", "d1");
    for first in [true, false] {
        let recorded = db.record_approval("d1", approval.clone(), "approved", entry());
        assert_eq!(recorded.await.expect("answered"), first);
    }
    assert_eq!(
        db.approvals("d1").await.expect("readable"),
        std::slice::from_ref(&approval)
    );
    assert_eq!(reload(&db, "d1").await.approver_id.as_deref(), Some("bob"));
    let row = owned(&db, "d1", "a", 0).await;
    let end = RolloutChange::to(in_phase(&row, Phase::Failed));
    db.change_rollout(&row, end, at(1)).await.expect("ended");
    let no = ApprovalRow {
        decision: "rejected".to_owned(),
        ..approval.clone()
    };
    let late = db.record_approval("d1", no, "rejected", entry()).await;
    assert!(matches!(late, Err(StoreError::Conflict(_))), "{late:?}");
    assert_eq!(db.approvals("d1").await.expect("readable"), [approval]);
    assert!(!db.wish("d1", "{}", entry()).await.expect("asked"));
    assert!(
        db.rollouts_in_progress()
            .await
            .expect("readable")
            .is_empty()
    );
}

/// An environment keeps its id whatever is registered under its name.
pub async fn an_environment_keeps_its_id(db: Db) {
    let one = db
        .ensure_environment("e1", "staging", "{}", "{}", at(0))
        .await
        .expect("stored");
    let two = db
        .ensure_environment("e2", "staging", "{\"a\":1}", "{}", at(1))
        .await
        .expect("stored");
    assert_eq!(
        (one.environment_id, two.environment_id.as_str()),
        ("e1".to_owned(), "e1")
    );
    assert_eq!(two.target, "{\"a\":1}");
    assert_eq!(db.environments().await.expect("readable").len(), 1);
    assert!(db.environment("e1").await.expect("readable").is_some());
    assert!(
        db.environment_by_name("production")
            .await
            .expect("readable")
            .is_none()
    );
}
