//! Who holds a place, who waits for it, and what an expired holder leaves.

use slipway_core::rollout::{LockAnswer, Phase};

use super::rollouts::{at, begun, in_phase, locked, new_rollout, owned};
use crate::{Begun, Db, RolloutChange};

/// One holder; waiters in order; rollbacks first; released by the end.
pub async fn the_lock_has_one_holder_and_goes_to_the_next(db: Db) {
    for id in ["d1", "d2", "d3"] {
        begun(&db, id).await;
    }
    let first = locked(&db, "d1", 0).await;
    let second = owned(&db, "d2", "a", 1).await;
    let wait = |position| LockAnswer::Wait {
        holder: Some("d1".to_owned()),
        position,
    };
    assert_eq!(db.ask_lock(&second, at(1)).await.expect("asked"), wait(1));
    let third = owned(&db, "d3", "a", 2).await;
    assert_eq!(db.ask_lock(&third, at(2)).await.expect("asked"), wait(2));
    let Begun::New(_) = db
        .begin_rollout(new_rollout("r1", "rollback", None))
        .await
        .expect("stored")
    else {
        panic!("it is new")
    };
    let back = owned(&db, "r1", "a", 3).await;
    assert_eq!(db.ask_lock(&back, at(3)).await.expect("asked"), wait(1));
    assert_eq!(db.ask_lock(&second, at(3)).await.expect("asked"), wait(2));

    let ended = RolloutChange::to(in_phase(&first, Phase::Failed));
    db.change_rollout(&first, ended, at(4))
        .await
        .expect("ended");
    let asked = db.ask_lock(&second, at(5)).await.expect("asked");
    assert_eq!(
        asked,
        LockAnswer::Wait {
            holder: None,
            position: 2
        }
    );
    assert_eq!(
        db.ask_lock(&back, at(5)).await.expect("asked"),
        LockAnswer::Granted
    );
    let waiters = db
        .lock_waiters("service", "environment")
        .await
        .expect("readable");
    let names: Vec<&str> = waiters.iter().map(|w| w.deployment.as_str()).collect();
    assert_eq!(names, ["d2", "d3"]);
}

/// Heartbeats keep what is owned, and nothing else; an expired holder is resolved first.
pub async fn a_silent_holder_is_resolved_before_the_next_starts(db: Db) {
    begun(&db, "d1").await;
    begun(&db, "d2").await;
    locked(&db, "d1", 0).await;
    assert_eq!(db.heartbeat_locks("a", at(10)).await.expect("asked"), 1);
    assert_eq!(
        db.heartbeat_locks("a", at(16)).await.expect("asked"),
        0,
        "its lease is over"
    );
    assert_eq!(db.heartbeat_locks("b", at(10)).await.expect("asked"), 0);
    let second = owned(&db, "d2", "b", 20).await;
    let asked = db.ask_lock(&second, at(609)).await.expect("asked");
    assert!(matches!(asked, LockAnswer::Wait { .. }));
    let asked = db.ask_lock(&second, at(610)).await.expect("asked");
    assert_eq!(
        asked,
        LockAnswer::ResolveOrphan {
            holder: "d1".to_owned()
        }
    );
    let resolved = owned(&db, "d1", "b", 611).await;
    let lock = db
        .lock("service", "environment")
        .await
        .expect("readable")
        .expect("held");
    assert_eq!((lock.holder.as_str(), lock.token), ("d1", resolved.token));
}

/// Outside of rollouts fences rise too; while one holds the place there is none to be had.
pub async fn a_quiet_fence_is_given_only_while_nobody_holds_the_place(db: Db) {
    let fence = |db: Db| async move { db.quiet_fence("service", "environment").await };
    let one = fence(db.clone()).await.expect("asked").expect("free");
    let two = fence(db.clone()).await.expect("asked").expect("free");
    assert!(two > one);
    begun(&db, "d1").await;
    let row = locked(&db, "d1", 0).await;
    assert!(row.token > i64::try_from(two.0).expect("small"));
    assert_eq!(fence(db.clone()).await.expect("asked"), None);
    let look = crate::RolloutHealthRow {
        health_id: "h1".to_owned(),
        deployment_id: "d1".to_owned(),
        metric_name: "error_rate".to_owned(),
        baseline_value: None,
        current_value: Some(0.25),
        threshold_alert: 1,
        checked_at: 5,
        step_idx: 0,
        verdict: "bad".to_owned(),
        evidence_json: "{}".to_owned(),
        rule_version: "literal-1".to_owned(),
    };
    db.record_rollout_health(look.clone()).await.expect("kept");
    assert_eq!(db.rollout_health("d1", 10).await.expect("readable"), [look]);
    let tick = |seq| crate::GateTickRow {
        deployment_id: "d1".to_owned(),
        step_idx: 0,
        seq,
        source: "router".to_owned(),
        boot_id: "b1".to_owned(),
        t0: seq,
        t1: seq + 1,
        counters_json: "{}".to_owned(),
    };
    let keep = |rows, token| db.keep_gate_ticks(rows, token);
    keep(vec![tick(0), tick(1)], row.token).await.expect("kept");
    keep(vec![tick(1), tick(2)], row.token).await.expect("kept");
    let stale = keep(vec![tick(3)], row.token - 1).await;
    assert!(matches!(stale, Err(crate::StoreError::Conflict(_))));
    let kept = db.gate_ticks("d1", 0, 10).await.expect("readable");
    assert_eq!(kept, [tick(0), tick(1), tick(2)]);
    assert_eq!(
        db.forget_gate_ticks(at(99_999)).await.expect("asked"),
        0,
        "it is under way"
    );
}
