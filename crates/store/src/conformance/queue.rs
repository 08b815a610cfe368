//! Ownership of attempts: assigned once, fenced by their number, lost and queued again.

use slipway_core::build::StageState;

use super::sample::{
    agent, assign, at, build_id, chain, new_build, repository, result, stage, stage_id, state_of,
};
use crate::{Acceptance, Db, Loss};

fn loss(attempt: i64, to: StageState) -> Loss {
    Loss {
        stage_id: stage_id(1, 1),
        attempt,
        to,
        reason: "agent_lost".to_owned(),
        lost_agents: "[]".to_owned(),
        not_before: at(30),
        now: at(15),
    }
}

/// Two planners, one stage: the number decides.
pub async fn a_stage_is_assigned_once(db: Db) {
    chain(&db).await;
    let first = agent(&db, 2).await;
    let second = agent(&db, 3).await;
    let stage = stage_id(1, 1);
    let (a, b) = tokio::join!(
        assign(&db, &stage, 0, &first),
        assign(&db, &stage, 0, &second)
    );
    assert!(a ^ b, "exactly one holds it");
    let row = db.stage(&stage).await.expect("readable").expect("there");
    assert_eq!((row.attempt, row.state.as_str()), (1, "assigned"));
    let owner = if a { &first } else { &second };
    assert_eq!(row.agent_id, Some(owner.to_string()));
    assert!(
        !assign(&db, &stage_id(1, 2), 0, &first).await,
        "it waits for its need"
    );
    assert_eq!(db.attempts(&stage).await.expect("readable").len(), 1);
}

/// An agent that drains gets nothing.
pub async fn a_draining_agent_gets_nothing(db: Db) {
    chain(&db).await;
    let agent = agent(&db, 2).await;
    db.set_agent_state(&agent, "draining", None)
        .await
        .expect("stored");
    assert!(!assign(&db, &stage_id(1, 1), 0, &agent).await);
    assert_eq!(state_of(&db, &stage_id(1, 1)).await, "ready");
}

/// A group admits as many as its limit.
pub async fn a_concurrency_group_has_a_limit(db: Db) {
    repository(&db).await;
    let agent = agent(&db, 1).await;
    let mut stages = vec![stage(1, 1, &[]), stage(1, 2, &[]), stage(1, 3, &[])];
    for stage in &mut stages {
        stage.group = Some(("deploy".to_owned(), 2));
    }
    db.create_build(new_build(1, stages)).await.expect("stored");
    assert!(assign(&db, &stage_id(1, 1), 0, &agent).await);
    assert!(assign(&db, &stage_id(1, 2), 0, &agent).await);
    assert!(
        !assign(&db, &stage_id(1, 3), 0, &agent).await,
        "the group is full"
    );
    let done = result(&stage_id(1, 1), 1, &agent, StageState::Succeeded);
    db.finish_attempt(done).await.expect("stored");
    assert!(assign(&db, &stage_id(1, 3), 0, &agent).await);
}

/// A build begins with the first of its stages that executes, not with the first that ends.
pub async fn a_build_begins_with_its_first_stage(db: Db) {
    chain(&db).await;
    let (agent, stage) = (super::sample::agent_id(1), stage_id(1, 1));
    let build = || async {
        let row = db.build(&build_id(1)).await.expect("readable");
        let row = row.expect("there");
        (row.status, row.started_at)
    };
    assert!(assign(&db, &stage, 0, &agent).await);
    assert_eq!(build().await, ("queued".to_owned(), None));
    for now in [11, 12] {
        db.mark_running(&stage, 1, &agent, at(now))
            .await
            .expect("stored");
        let began = Some(at(11).as_millis());
        assert_eq!(build().await, ("building".to_owned(), began));
    }
}

/// A lost attempt is queued again, once, with its history kept.
pub async fn a_lost_attempt_is_queued_again_once(db: Db) {
    chain(&db).await;
    let agent = super::sample::agent_id(1);
    let stage = stage_id(1, 1);
    assert!(assign(&db, &stage, 0, &agent).await);
    assert!(
        db.mark_running(&stage, 1, &agent, at(11))
            .await
            .expect("stored")
    );
    let change = db
        .lose_attempt(loss(1, StageState::Ready))
        .await
        .expect("stored");
    assert_eq!(change.expect("it was held").ready, [stage.to_string()]);
    let again = db
        .lose_attempt(loss(1, StageState::Ready))
        .await
        .expect("stored");
    assert!(again.is_none(), "it is lost once");
    let row = db.stage(&stage).await.expect("readable").expect("there");
    assert_eq!(
        (row.state.as_str(), row.losses, row.attempt),
        ("ready", 1, 1)
    );
    assert!(assign(&db, &stage, 1, &agent).await);
    let history = db.attempts(&stage).await.expect("readable");
    assert_eq!(history.len(), 2);
    assert!(history.iter().any(|a| a.outcome.as_deref() == Some("lost")));
}

/// `fencing_stale_result_rejected`: an older attempt's result changes nothing, in every order.
pub async fn fencing_stale_result_rejected(db: Db) {
    chain(&db).await;
    let (first, second) = (super::sample::agent_id(1), agent(&db, 2).await);
    let stage = stage_id(1, 1);
    assert!(assign(&db, &stage, 0, &first).await);
    db.lose_attempt(loss(1, StageState::Ready))
        .await
        .expect("stored");
    let late = |state| result(&stage, 1, &first, state);
    for state in [StageState::Succeeded, StageState::Failed] {
        let answer = db.finish_attempt(late(state)).await.expect("stored");
        assert_eq!(
            answer.acceptance,
            Acceptance::Stale,
            "before the next attempt"
        );
    }
    assert!(assign(&db, &stage, 1, &second).await);
    for state in [StageState::Succeeded, StageState::Failed] {
        let answer = db.finish_attempt(late(state)).await.expect("stored");
        assert_eq!(
            answer.acceptance,
            Acceptance::Stale,
            "while the next one executes"
        );
    }
    assert!(
        !db.mark_running(&stage, 1, &first, at(16))
            .await
            .expect("stored")
    );
    let borrowed = result(&stage, 2, &first, StageState::Succeeded);
    let answer = db.finish_attempt(borrowed).await.expect("stored");
    assert_eq!(
        answer.acceptance,
        Acceptance::Stale,
        "the number is right, the agent is not"
    );
    let good = result(&stage, 2, &second, StageState::Failed);
    let answer = db.finish_attempt(good).await.expect("stored");
    assert_eq!(answer.acceptance, Acceptance::Accepted(StageState::Failed));
    let answer = db
        .finish_attempt(late(StageState::Succeeded))
        .await
        .expect("stored");
    assert_eq!(answer.acceptance, Acceptance::Stale, "after the end");
    assert_eq!(state_of(&db, &stage).await, "failed");
}

/// Nobody answered the assignment: taken back, unless the attempt went on.
pub async fn an_unanswered_assignment_is_taken_back(db: Db) {
    chain(&db).await;
    let agent = super::sample::agent_id(1);
    let stage = stage_id(1, 1);
    assert!(assign(&db, &stage, 0, &agent).await);
    assert!(db.take_back(&stage, 1).await.expect("stored"));
    assert!(!db.take_back(&stage, 1).await.expect("stored"));
    assert!(assign(&db, &stage, 1, &agent).await);
    assert!(
        !db.take_back(&stage, 1).await.expect("stored"),
        "an older number"
    );
    assert!(
        db.mark_running(&stage, 2, &agent, at(12))
            .await
            .expect("stored")
    );
    assert!(
        !db.take_back(&stage, 2).await.expect("stored"),
        "it executes"
    );
    let held = db.held_by_agent(&agent).await.expect("readable");
    assert_eq!(held.len(), 1);
    let queue = db.queue().await.expect("readable");
    assert!(
        queue
            .iter()
            .any(|row| row.build_id == build_id(1).to_string())
    );
}

/// An agent that was stopped stays stopped over a hello, and its losses before do not count again.
pub async fn a_quarantined_agent_gets_nothing_until_it_is_resumed(db: Db) {
    chain(&db).await;
    let (agent, stage) = (super::sample::agent_id(1), stage_id(1, 1));
    assert!(assign(&db, &stage, 0, &agent).await);
    db.lose_attempt(loss(1, StageState::Ready))
        .await
        .expect("stored");
    let last = db.last_attempts(&agent).await.expect("readable");
    let [one] = last.as_slice() else {
        panic!("{last:?}")
    };
    let times = (one.assigned_ms, one.ended_ms);
    assert_eq!(one.outcome.as_deref(), Some("lost"));
    assert_eq!(times, (at(10).as_millis(), at(15).as_millis()));
    assert!(
        db.quarantine_agent(&agent, "it loses")
            .await
            .expect("stored")
    );
    let again = db.quarantine_agent(&agent, "again").await;
    assert!(!again.expect("stored"), "it is stopped once");
    db.agent_hello(&agent, "boot", 4, "{}", at(16))
        .await
        .expect("stored");
    let row = db.agent(&agent).await.expect("readable").expect("there");
    let state = (row.state.as_str(), row.reason.as_deref());
    assert_eq!(state, ("quarantined", Some("it loses")));
    assert!(!assign(&db, &stage, 1, &agent).await);
    assert!(db.resume_agent(&agent, at(17)).await.expect("stored"));
    assert!(!db.resume_agent(&agent, at(18)).await.expect("stored"));
    let row = db.agent(&agent).await.expect("readable").expect("there");
    assert_eq!((row.state.as_str(), row.reason), ("ready", None));
    let last = db.last_attempts(&agent).await.expect("readable");
    assert!(last.is_empty(), "{last:?}");
    assert!(assign(&db, &stage, 1, &agent).await);
}

/// What the order of the queue is estimated from.
pub async fn what_stages_took_is_the_last_ten_of_the_pipeline(db: Db) {
    repository(&db).await;
    let agent = agent(&db, 1).await;
    for n in 1..=13 {
        let mut new = new_build(n, vec![stage(n, 1, &[])]);
        if n == 13 {
            new.pipeline = "nightly".to_owned();
        }
        db.create_build(new).await.expect("stored");
        let stage = stage_id(n, 1);
        assert!(assign(&db, &stage, 0, &agent).await);
        let state = if n == 12 {
            StageState::Failed
        } else {
            StageState::Succeeded
        };
        let mut done = result(&stage, 1, &agent, state);
        done.now = at(10 + i64::from(n));
        db.finish_attempt(done).await.expect("stored");
    }
    let took = db
        .past_durations(&super::sample::repo_id(), "default")
        .await
        .expect("readable");
    let mut took: Vec<i64> = took
        .into_iter()
        .map(|(stage, millis)| {
            assert_eq!(stage, "stage-1");
            millis
        })
        .collect();
    took.sort_unstable();
    // Of 1–11, which passed, the last ten.
    assert_eq!(took, (2..=11).map(|n| n * 1_000).collect::<Vec<_>>());
}

/// Every build of a long queue is in exactly one part, whole.
pub async fn a_long_queue_is_read_in_parts(db: Db) {
    repository(&db).await;
    for n in 1..=9 {
        let stages = (1..=500).map(|s| stage(n, s, &[])).collect();
        db.create_build(new_build(n, stages)).await.expect("stored");
    }
    let (mut after, mut parts, mut seen) = (None, 0, Vec::new());
    loop {
        let (rows, end) = db.queue_after(after.as_ref()).await.expect("readable");
        assert!(rows.len() <= 2_500, "{}", rows.len());
        let mut builds: Vec<String> = rows.iter().map(|row| row.build_id.clone()).collect();
        builds.dedup();
        for build in &builds {
            let of_build = rows.iter().filter(|row| row.build_id == *build);
            assert_eq!(of_build.count(), 500, "a part of {build}");
        }
        seen.extend(builds);
        parts += 1;
        after = end;
        if after.is_none() {
            break;
        }
    }
    let all: Vec<String> = (1..=9).map(|n| build_id(n).to_string()).collect();
    assert_eq!((parts, seen), (2, all));
}
