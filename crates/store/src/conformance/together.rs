//! What waits at once is written as one, and each is judged as if it were alone.

use std::collections::BTreeMap;

use futures::future::join_all;
use slipway_core::build::{BuildStatus, StageState};

use super::inbox::delivery;
use super::sample::{
    agent, assign, at, build_id, new_build, repo_id, repository, result, stage, stage_id, state_of,
    ulid,
};
use crate::{Acceptance, Assignment, AttemptRow, Created, Db, NewBuild, StoreError};

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

/// Builds that are made together: numbered in their order, one per event, each older one of a lane replaced by
/// the next, and each delivery decided; one that cannot be made takes no other with it.
pub async fn builds_that_are_made_together_are_judged_one_by_one(db: Db) {
    repository(&db).await;
    for n in 11..=13 {
        db.record_delivery(delivery(n, &format!("from-{n}"), "x"))
            .await
            .expect("stored");
    }
    let of = |n: u32, lane: Option<&str>, delivered: Option<u32>| NewBuild {
        lane: lane.map(str::to_owned),
        delivery: delivered.map(|n| ulid(n).parse().expect("an id")),
        ..new_build(n, vec![stage(n, 1, &[]), stage(n, 2, &[1])])
    };
    let mut again = of(3, None, Some(12));
    again.event_key = Some("event-1".to_owned());
    let mut strange = of(5, None, None);
    strange.repo_id = ulid(77).parse().expect("an id");
    let mut ended = of(6, None, None);
    (ended.status, ended.event_key) = (BuildStatus::Failed, None);
    for together in [true, false] {
        let all = match together {
            true => vec![
                of(1, Some("main"), Some(11)),
                of(2, Some("main"), None),
                again.clone(),
                of(4, Some("other"), Some(13)),
                ended.clone(),
            ],
            // With one that cannot be made.
            false => vec![strange.clone(), of(7, None, None), again.clone()],
        };
        let made = join_all(all.into_iter().map(|new| db.create_build(new))).await;
        let new = |number| Created::New {
            number,
            superseded: Vec::new(),
        };
        let joined = Created::Existing(build_id(1).to_string());
        let said: Vec<_> = made.into_iter().map(Result::ok).collect();
        let expected = match together {
            true => vec![
                Some(new(1)),
                Some(new(2)),
                Some(joined),
                Some(new(3)),
                Some(new(4)),
            ],
            false => vec![None, Some(new(5)), Some(joined)],
        };
        assert_eq!(said, expected);
    }
    builds_left_their_marks(&db).await;
}

/// What is stored of those builds.
async fn builds_left_their_marks(db: &Db) {
    let build = |n| async move {
        let row = db.build(&build_id(n)).await.expect("readable");
        row.expect("there")
    };
    let first = build(1).await;
    assert_eq!(first.superseded_by.as_deref(), Some(build_id(2).as_str()));
    assert_eq!(state_of(db, &stage_id(1, 1)).await, "superseded");
    for n in [2, 4, 7] {
        assert_eq!(build(n).await.superseded_by, None, "build {n}");
        assert_eq!(state_of(db, &stage_id(n, 1)).await, "ready", "build {n}");
        assert_eq!(state_of(db, &stage_id(n, 2)).await, "waiting", "build {n}");
    }
    let ended = build(6).await;
    assert_eq!((ended.status.as_str(), ended.duration), ("failed", Some(0)));
    for (n, state, of) in [(11, "built", 1), (12, "attached", 1), (13, "built", 4)] {
        let row = db.delivery(&ulid(n).parse().expect("an id")).await;
        let row = row.expect("readable").expect("there");
        let build = build_id(of).to_string();
        assert_eq!((row.state.as_str(), row.build_id), (state, Some(build)));
    }
}

/// Rows that are asked for together: to each its own, also to two that ask for the same, and nothing for what
/// is not there.
pub async fn rows_that_are_asked_for_together_go_to_whoever_asked(db: Db) {
    two_builds(&db).await;
    let asked = [
        stage_id(1, 1),
        stage_id(2, 1),
        stage_id(1, 1),
        stage_id(1, 99),
    ];
    let rows = join_all(asked.iter().map(|id| db.stage(id))).await;
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row: Result<_, StoreError>| row.expect("readable").map(|row| row.stage_id))
        .collect();
    let there = |b, n| Some(stage_id(b, n).to_string());
    assert_eq!(rows, [there(1, 1), there(2, 1), there(1, 1), None]);

    let builds = [build_id(2), build_id(1), build_id(9)];
    let rows = join_all(builds.iter().map(|id| db.build(id))).await;
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| row.expect("readable").map(|row| row.build_id))
        .collect();
    let there = |n| Some(build_id(n).to_string());
    assert_eq!(rows, [there(2), there(1), None]);

    let queues = join_all(builds.iter().map(|id| db.queue_of_build(id))).await;
    let ready: Vec<usize> = queues
        .into_iter()
        .map(|rows| rows.expect("readable").len())
        .collect();
    assert_eq!(ready, [1, 6, 0]);
    let layers = join_all(builds.iter().map(|id| db.layers(id))).await;
    let names: Vec<Vec<String>> = layers
        .into_iter()
        .map(|rows| {
            let rows = rows.expect("readable").into_iter();
            rows.map(|row| row.stage_name).collect()
        })
        .collect();
    let all: Vec<String> = (1..=7).map(|n| format!("stage-{n}")).collect();
    assert_eq!(names, [vec!["stage-1".to_owned()], all, vec![]]);
}

/// Heads that are seen together: of each ref the last.
pub async fn heads_that_are_seen_together_end_with_the_last_of_each(db: Db) {
    repository(&db).await;
    let repo = repo_id();
    let seen = [
        ("refs/heads/main", Some("a")),
        ("refs/heads/next", Some("b")),
        ("refs/heads/gone", Some("c")),
        ("refs/heads/main", Some("d")),
        ("refs/heads/gone", None),
    ];
    let seen = seen.map(|(name, sha)| db.put_ref_head(&repo, name, sha, at(1)));
    for stored in join_all(seen).await {
        stored.expect("stored");
    }
    let heads = db.ref_heads(&repo).await.expect("readable");
    let heads: Vec<_> = heads
        .iter()
        .map(|(name, sha)| (name.as_str(), sha.as_str()))
        .collect();
    assert_eq!(heads, [("refs/heads/main", "d"), ("refs/heads/next", "b")]);
    let main = db.ref_head(&repo, "refs/heads/main").await;
    assert_eq!(main.expect("readable").as_deref(), Some("d"));
    let gone = db.ref_head(&repo, "refs/heads/gone").await;
    assert_eq!(gone.expect("readable"), None);
}
