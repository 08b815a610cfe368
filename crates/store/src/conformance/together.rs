//! What waits at once is written as one, and each is judged as if it were alone.

use std::collections::BTreeMap;

use futures::future::join_all;
use slipway_core::build::{BuildStatus, StageState};

use super::sample::{
    agent, assign, at, build_id, new_build, repository, result, stage, stage_id, state_of,
};
use crate::{Acceptance, Assignment, AttemptRow, Db};

async fn only(db: &Db, n: u32) -> AttemptRow {
    let mut all = db.attempts(&stage_id(1, n)).await.expect("readable");
    assert_eq!(all.len(), 1, "stage {n}");
    all.remove(0)
}

/// Build 1 with seven stages; the last needs the first two. Build 2 with one.
async fn two_builds(db: &Db) {
    repository(db).await;
    let mut stages: Vec<_> = (1..=6).map(|n| stage(1, n, &[])).collect();
    stages.push(stage(1, 7, &[1, 2]));
    db.create_build(new_build(1, stages)).await.expect("stored");
    let other = new_build(2, vec![stage(2, 1, &[])]);
    db.create_build(other).await.expect("stored");
}

/// Results of every kind that arrive together: each gets the answer that it would get alone.
pub async fn results_that_arrive_together_are_judged_one_by_one(db: Db) {
    two_builds(&db).await;
    let (mine, other) = (agent(&db, 1).await, agent(&db, 2).await);
    for n in 1..=6 {
        assert!(assign(&db, &stage_id(1, n), 0, &mine).await);
    }
    assert!(assign(&db, &stage_id(2, 1), 0, &other).await);
    db.cancel_stages(&build_id(1), vec![stage_id(1, 4)], "asked", at(15))
        .await
        .expect("stored");

    let good = |n| result(&stage_id(1, n), 1, &mine, StageState::Succeeded);
    let mut again = result(&stage_id(1, 5), 1, &mine, StageState::Failed);
    again.try_again = true;
    let mut kept = good(1);
    kept.output_layer = Some("layer".to_owned());
    kept.detail = "it's \"done\"\n\\".to_owned();
    let said = [
        // A stranger's comes first: it must not shut out the holder's.
        result(&stage_id(1, 1), 1, &other, StageState::Failed),
        kept,
        good(1),
        good(2),
        result(&stage_id(1, 3), 2, &mine, StageState::Succeeded),
        good(4),
        again,
        result(&stage_id(1, 6), 1, &mine, StageState::Failed),
        result(&stage_id(2, 1), 1, &other, StageState::Succeeded),
    ];
    let heard = join_all(said.into_iter().map(|one| db.finish_attempt(one))).await;
    let heard: Vec<_> = heard.into_iter().map(|one| one.expect("stored")).collect();
    let answers: Vec<_> = heard.iter().map(|one| one.acceptance.clone()).collect();
    let accepted = Acceptance::Accepted;
    assert_eq!(
        answers,
        [
            Acceptance::Stale,
            accepted(StageState::Succeeded),
            Acceptance::AlreadyAccepted,
            accepted(StageState::Succeeded),
            Acceptance::Stale,
            accepted(StageState::Cancelled),
            accepted(StageState::Ready),
            accepted(StageState::Failed),
            accepted(StageState::Succeeded),
        ]
    );
    they_left_their_marks(&db).await;
    let statuses: BTreeMap<_, _> = heard
        .iter()
        .filter_map(|one| one.change.as_ref())
        .map(|change| (change.build_id.clone(), change.status))
        .collect();
    assert_eq!(statuses[build_id(2).as_str()], BuildStatus::Passed);
    assert_eq!(statuses[build_id(1).as_str()], BuildStatus::Building);
}

/// What is stored of those results.
async fn they_left_their_marks(db: &Db) {
    let states = [
        "succeeded",
        "succeeded",
        "assigned",
        "cancelled",
        "ready",
        "failed",
        "ready",
    ];
    for (n, state) in (1..).zip(states) {
        assert_eq!(state_of(db, &stage_id(1, n)).await, state, "stage {n}");
    }
    let row = db.stage(&stage_id(1, 1)).await.expect("readable");
    assert_eq!(
        row.expect("there").output_layer.as_deref(),
        Some("layer"),
        "what it left is kept"
    );
    let history = only(db, 1).await;
    assert_eq!(history.outcome.as_deref(), Some("succeeded"));
    assert_eq!(history.detail.as_deref(), Some("it's \"done\"\n\\"));
    assert_eq!(only(db, 3).await.outcome, None, "it goes on");
}

/// Attempts that begin together: each only if it is the current one, and its holder's.
pub async fn attempts_that_begin_together_are_judged_one_by_one(db: Db) {
    two_builds(&db).await;
    let (mine, other) = (agent(&db, 1).await, agent(&db, 2).await);
    for n in 1..=3 {
        assert!(assign(&db, &stage_id(1, n), 0, &mine).await);
    }
    db.cancel_stages(&build_id(1), vec![stage_id(1, 3)], "asked", at(11))
        .await
        .expect("stored");
    let (one, two, three) = (stage_id(1, 1), stage_id(1, 2), stage_id(1, 3));
    let taken = [
        (&one, 1, &mine),
        (&one, 1, &other),
        (&one, 1, &mine),
        (&two, 2, &mine),
        (&two, 1, &mine),
        (&three, 1, &mine),
    ];
    let taken = taken.map(|(stage, attempt, agent)| db.mark_running(stage, attempt, agent, at(12)));
    let good: Vec<bool> = join_all(taken)
        .await
        .into_iter()
        .map(|one| one.expect("stored"))
        .collect();
    assert_eq!(good, [true, false, true, false, true, false]);
    assert_eq!(only(&db, 1).await.started_ms, Some(at(12).as_millis()));
    assert_eq!(only(&db, 3).await.started_ms, None);
    let build = db.build(&build_id(1)).await.expect("readable");
    assert_eq!(build.expect("there").status, "building");
    let build = db.build(&build_id(2)).await.expect("readable");
    assert_eq!(build.expect("there").status, "queued", "nobody began it");
}

/// Stages that are given out together: each only if it still may be, and no more than its group allows.
pub async fn stages_given_out_together_are_judged_one_by_one(db: Db) {
    repository(&db).await;
    let (good, draining) = (agent(&db, 1).await, agent(&db, 2).await);
    db.set_agent_state(&draining, "draining", None)
        .await
        .expect("stored");
    let grouped = |n| {
        let group = Some(("database".to_owned(), 1));
        let stage = stage(1, n, &[]);
        crate::NewStage { group, ..stage }
    };
    let stages = vec![
        stage(1, 1, &[]),
        stage(1, 2, &[]),
        grouped(3),
        grouped(4),
        stage(1, 5, &[1]),
        stage(1, 6, &[]),
    ];
    db.create_build(new_build(1, stages)).await.expect("stored");
    let give = |n, attempt, to: &slipway_core::id::AgentId| Assignment {
        stage_id: stage_id(1, n),
        attempt,
        agent_id: to.clone(),
        token_hash: format!("{n}/{attempt}"),
    };
    let all = vec![
        give(1, 0, &good),
        give(2, 0, &draining),
        give(3, 0, &good),
        give(4, 0, &good),
        give(5, 0, &good),
        give(6, 7, &good),
    ];
    let held = db.assign(all, at(10)).await.expect("stored");
    assert_eq!(held, [true, false, true, false, false, false]);
    assert_eq!(only(&db, 1).await.agent_id, good.as_str());
    assert_eq!(only(&db, 3).await.assigned_ms, at(10).as_millis());
    assert!(
        db.attempts(&stage_id(1, 4))
            .await
            .expect("readable")
            .is_empty()
    );
}
