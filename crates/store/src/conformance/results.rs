//! How stages end, and what follows in the same transaction.

use slipway_core::build::{BuildStatus, StageState};

use super::sample::{agent_id, assign, at, build_id, chain, result, stage_id, state_of};
use crate::{Acceptance, Db, Loss};

/// A success makes what needs it ready, and the last one ends the build.
pub async fn a_success_makes_its_dependants_ready(db: Db) {
    chain(&db).await;
    let agent = agent_id(1);
    assert!(assign(&db, &stage_id(1, 1), 0, &agent).await);
    let first = result(&stage_id(1, 1), 1, &agent, StageState::Succeeded);
    let finished = db.finish_attempt(first).await.expect("stored");
    assert_eq!(
        finished.acceptance,
        Acceptance::Accepted(StageState::Succeeded)
    );
    let change = finished.change.expect("the build moved");
    assert_eq!(change.ready, [stage_id(1, 2).to_string()]);
    assert!(assign(&db, &stage_id(1, 2), 0, &agent).await);
    let second = result(&stage_id(1, 2), 1, &agent, StageState::Succeeded);
    let change = db
        .finish_attempt(second)
        .await
        .expect("stored")
        .change
        .expect("moved");
    assert_eq!(change.status, BuildStatus::Passed);
    let row = db
        .build(&build_id(1))
        .await
        .expect("readable")
        .expect("there");
    assert!(row.ended_at.is_some());
}

/// A failure skips what needs it.
pub async fn a_failure_skips_its_dependants(db: Db) {
    chain(&db).await;
    let agent = agent_id(1);
    assert!(assign(&db, &stage_id(1, 1), 0, &agent).await);
    let failed = result(&stage_id(1, 1), 1, &agent, StageState::Failed);
    let change = db
        .finish_attempt(failed)
        .await
        .expect("stored")
        .change
        .expect("moved");
    assert_eq!(change.status, BuildStatus::Failed);
    assert_eq!(state_of(&db, &stage_id(1, 2)).await, "skipped");
}

/// `result_reply_lost_idempotent`: the reply was lost, the agent says it again.
pub async fn result_reply_lost_idempotent(db: Db) {
    chain(&db).await;
    let agent = agent_id(1);
    let stage = stage_id(1, 1);
    assert!(assign(&db, &stage, 0, &agent).await);
    let said = result(&stage, 1, &agent, StageState::Succeeded);
    db.finish_attempt(said.clone()).await.expect("stored");
    for _ in 0..3 {
        let again = db.finish_attempt(said.clone()).await.expect("stored");
        assert_eq!(again.acceptance, Acceptance::AlreadyAccepted);
        assert!(again.change.is_none());
    }
    let other = result(&stage, 1, &agent, StageState::Failed);
    let answer = db.finish_attempt(other).await.expect("stored");
    assert_eq!(
        answer.acceptance,
        Acceptance::Stale,
        "it cannot change its mind"
    );
    assert_eq!(db.attempts(&stage).await.expect("readable").len(), 1);
}

/// `cancel_race_success`: whoever is first in the database decides; there is one end.
pub async fn cancel_race_success(db: Db) {
    chain(&db).await;
    let agent = agent_id(1);
    let stage = stage_id(1, 1);
    assert!(assign(&db, &stage, 0, &agent).await);
    let (told, _) = db
        .cancel_build(&build_id(1), "no", at(12))
        .await
        .expect("stored");
    assert_eq!(told, [(stage.to_string(), 1, Some(agent.to_string()))]);
    assert_eq!(state_of(&db, &stage_id(1, 2)).await, "cancelled");
    let mut late = result(&stage, 1, &agent, StageState::Succeeded);
    late.artifacts = Vec::new();
    let answer = db.finish_attempt(late).await.expect("stored");
    assert_eq!(
        answer.acceptance,
        Acceptance::Accepted(StageState::Cancelled)
    );
    let row = db
        .build(&build_id(1))
        .await
        .expect("readable")
        .expect("there");
    assert_eq!(row.status, "cancelled");
    let (told, _) = db
        .cancel_build(&build_id(1), "again", at(30))
        .await
        .expect("stored");
    assert!(told.is_empty(), "nothing is left to be told");
}

/// The other order: the success was first.
pub async fn a_cancel_after_the_end_changes_nothing(db: Db) {
    chain(&db).await;
    let agent = agent_id(1);
    for n in 1..=2 {
        assert!(assign(&db, &stage_id(1, n), 0, &agent).await);
        let good = result(&stage_id(1, n), 1, &agent, StageState::Succeeded);
        db.finish_attempt(good).await.expect("stored");
    }
    db.cancel_build(&build_id(1), "late", at(30))
        .await
        .expect("stored");
    assert_eq!(state_of(&db, &stage_id(1, 1)).await, "succeeded");
    let row = db
        .build(&build_id(1))
        .await
        .expect("readable")
        .expect("there");
    assert_eq!(row.status, "passed");
}

/// An outcome that nobody knows is decided by its own late result, or by a person.
pub async fn an_unknown_outcome_waits_for_its_own_result(db: Db) {
    chain(&db).await;
    let agent = agent_id(1);
    let stage = stage_id(1, 1);
    assert!(assign(&db, &stage, 0, &agent).await);
    let loss = Loss {
        stage_id: stage.clone(),
        attempt: 1,
        to: StageState::Unknown,
        reason: "agent_lost".to_owned(),
        lost_agents: "[]".to_owned(),
        not_before: at(0),
        now: at(15),
    };
    db.lose_attempt(loss).await.expect("stored");
    assert_eq!(state_of(&db, &stage).await, "unknown");
    assert!(
        !assign(&db, &stage, 1, &agent).await,
        "it is not executed twice"
    );
    let late = result(&stage, 1, &agent, StageState::Succeeded);
    let answer = db.finish_attempt(late).await.expect("stored");
    assert_eq!(
        answer.acceptance,
        Acceptance::Accepted(StageState::Succeeded)
    );
    let decided = db
        .decide_unknown(&stage, StageState::Failed, "a person", at(40))
        .await;
    assert!(decided.expect("stored").is_none(), "it is known now");
}

/// A stage that is executed again opens its build again.
pub async fn a_rerun_opens_the_build_again(db: Db) {
    chain(&db).await;
    let agent = agent_id(1);
    let stage = stage_id(1, 1);
    assert!(assign(&db, &stage, 0, &agent).await);
    db.finish_attempt(result(&stage, 1, &agent, StageState::Failed))
        .await
        .expect("stored");
    let again = vec![stage.clone(), stage_id(1, 2)];
    db.rerun_stages(&build_id(1), again, at(50))
        .await
        .expect("stored");
    assert_eq!(state_of(&db, &stage).await, "ready");
    assert!(assign(&db, &stage, 1, &agent).await, "with the next number");
    let stale = db
        .finish_attempt(result(&stage, 1, &agent, StageState::Succeeded))
        .await;
    assert_eq!(stale.expect("stored").acceptance, Acceptance::Stale);
}
