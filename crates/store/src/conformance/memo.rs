//! Records of what stages came to: the first one stays, and scopes are kept apart.

use slipway_core::build::{BuildStatus, StageState};
use slipway_core::id::{AgentId, ArtifactId};

use super::sample::{
    agent, agent_id, assign, at, build_id, new_build, repo_id, repository, result, stage, stage_id,
    state_of, ulid,
};
use crate::{Created, Db, Decided, Memo, NewArtifact, NewReport, OutcomeRow};

const KEY: &str = "key-1";

fn memo(build: u32, key: &str, decided: Decided) -> Memo {
    Memo {
        stage_id: stage_id(build, 1),
        key: Some(key.to_owned()),
        fields: "{}".to_owned(),
        note: "a note".to_owned(),
        decided,
    }
}

fn file(checksum: &str) -> NewArtifact {
    NewArtifact {
        artifact_id: ulid(7_000).parse::<ArtifactId>().expect("an id"),
        name: "out".to_owned(),
        artifact_type: "file".to_owned(),
        uri: "artifacts/x".to_owned(),
        file_size: 3,
        checksum: checksum.to_owned(),
    }
}

/// Build `n`: stage 2 needs stage 1, which is looked up first.
async fn build(db: &Db, n: u32, outside: Option<&str>) {
    let mut first = stage(n, 1, &[]);
    first.ask = true;
    let mut new = new_build(n, vec![first, stage(n, 2, &[1])]);
    if let Some(ref_name) = outside {
        new.trust = "untrusted".to_owned();
        new.ref_name = ref_name.to_owned();
    }
    let created = db.create_build(new).await.expect("stored");
    assert!(matches!(created, Created::New { .. }));
}

/// Executes stage 1 of build `n` under a key; it leaves a file of this checksum.
async fn executed(db: &Db, n: u32, agent: &AgentId, key: &str, checksum: &str) {
    let all = vec![memo(n, key, Decided::Execute)];
    let change = db.decide_memo(&build_id(n), all, at(5)).await;
    assert!(change.expect("stored").is_none());
    assert!(assign(db, &stage_id(n, 1), 0, agent).await);
    let mut done = result(&stage_id(n, 1), 1, agent, StageState::Succeeded);
    let mut kept = file(checksum);
    kept.artifact_id = ulid(7_000 + n).parse().expect("an id");
    done.artifacts = vec![kept];
    done.output_layer = Some(format!("layer-{n}"));
    done.reports = vec![NewReport {
        path: "r.xml".to_owned(),
        kind: "junit".into(),
        state: "present".into(),
        counts: [2, 2, 0, 0, 0],
        ..NewReport::default()
    }];
    db.finish_attempt(done).await.expect("stored");
}

async fn found(db: &Db, key: &str, scopes: &[&str]) -> Option<OutcomeRow> {
    let scopes: Vec<String> = scopes.iter().map(|s| (*s).to_owned()).collect();
    db.outcome(repo_id().as_str(), key, &scopes)
        .await
        .expect("readable")
}

async fn named(db: &Db, stage: &str) -> usize {
    let (repo, scopes) = (repo_id(), ["trusted".to_owned()]);
    let found = db.outcomes_named(repo.as_str(), stage, &scopes).await;
    found.expect("readable").len()
}

/// A recalled stage ends as its record says, without an attempt, and what needs it goes on.
pub async fn a_recalled_stage_has_its_records_outputs_and_no_attempt(db: Db) {
    repository(&db).await;
    let agent = agent(&db, 1).await;
    build(&db, 1, None).await;
    executed(&db, 1, &agent, KEY, "aa").await;
    let record = found(&db, KEY, &["trusted"]).await.expect("recorded");
    assert_eq!((record.attempt, &*record.agent_id), (1, agent.as_str()));
    build(&db, 2, None).await;
    let ids = vec![ulid(8_000).parse::<ArtifactId>().expect("an id")];
    let hit = memo(2, KEY, Decided::Recall(Box::new(record), ids));
    let change = db
        .decide_memo(&build_id(2), vec![hit.clone()], at(30))
        .await;
    let change = change.expect("stored").expect("the build moved");
    assert_eq!(change.ready, [stage_id(2, 2).to_string()]);
    let row = db
        .stage(&stage_id(2, 1))
        .await
        .expect("readable")
        .expect("there");
    assert_eq!(
        (&*row.state, &*row.memo, row.attempt),
        ("succeeded", "recalled", 0)
    );
    assert_eq!(row.output_layer.as_deref(), Some("layer-1"));
    assert!(
        db.attempts(&stage_id(2, 1))
            .await
            .expect("readable")
            .is_empty()
    );
    let files = db.artifacts(&build_id(2)).await.expect("readable");
    assert_eq!((&*files[0].checksum, &*files[0].uri), ("aa", "artifacts/x"));
    let reports = db.reports(&build_id(2)).await.expect("readable");
    assert_eq!((reports[0].total, &*reports[0].kind), (2, "junit"));
    // Said twice it is done once.
    let again = db.decide_memo(&build_id(2), vec![hit], at(31)).await;
    assert!(again.expect("stored").is_none());
    assert_eq!(db.artifacts(&build_id(2)).await.expect("readable").len(), 1);
}

/// A recalled stage whose layer is gone is executed after all, and so is what waits for it.
pub async fn what_was_recalled_and_is_gone_is_executed_after_all(db: Db) {
    repository(&db).await;
    let agent = agent(&db, 1).await;
    build(&db, 1, None).await;
    executed(&db, 1, &agent, KEY, "aa").await;
    let nothing = db.undo_recalls(&build_id(1), at(25)).await;
    assert!(nothing.expect("stored").is_none(), "nothing was recalled");
    build(&db, 2, None).await;
    let record = found(&db, KEY, &["trusted"]).await.expect("recorded");
    let ids = vec![ulid(8_000).parse::<ArtifactId>().expect("an id")];
    let hit = memo(2, KEY, Decided::Recall(Box::new(record), ids));
    db.decide_memo(&build_id(2), vec![hit], at(30))
        .await
        .expect("stored");
    assert_eq!(state_of(&db, &stage_id(2, 2)).await, "ready");
    let undone = db.undo_recalls(&build_id(2), at(31)).await;
    let change = undone.expect("stored").expect("the build moved");
    assert_eq!(change.ready, [stage_id(2, 1).to_string()]);
    assert_eq!(state_of(&db, &stage_id(2, 2)).await, "waiting");
    assert!(
        db.artifacts(&build_id(2))
            .await
            .expect("readable")
            .is_empty()
    );
    assert!(
        found(&db, KEY, &["trusted"]).await.is_none(),
        "not offered again"
    );
    executed(&db, 2, &agent, KEY, "aa").await;
    assert_eq!(state_of(&db, &stage_id(2, 2)).await, "ready");
    let record = found(&db, KEY, &["trusted"]).await.expect("recorded anew");
    assert_eq!(record.output_layer.as_deref(), Some("layer-2"));
}

/// `memo_conflict_quarantine`: the first record of a key stays, another one is kept aside and told.
pub async fn memo_conflict_quarantine(db: Db) {
    repository(&db).await;
    let agent = agent(&db, 1).await;
    for (n, checksum) in [(1, "aa"), (2, "bb"), (3, "aa")] {
        build(&db, n, None).await;
        executed(&db, n, &agent, KEY, checksum).await;
        let record = found(&db, KEY, &["trusted"]).await.expect("recorded");
        // One that left the same is as good, and its layer is fresher.
        let first = if n == 3 { 3 } else { 1 };
        assert_eq!(record.build_id, build_id(first).to_string(), "build {n}");
        assert!(record.artifacts.contains("aa"));
    }
    let note = |n| {
        let db = db.clone();
        async move {
            let stage = db.stage(&stage_id(n, 1)).await.expect("readable");
            stage.expect("there").memo_note
        }
    };
    let told = note(2).await;
    assert!(
        told.contains("not reproducible") && told.contains("out"),
        "{told}"
    );
    assert_eq!(
        (note(1).await, note(3).await),
        ("a note".into(), "a note".into())
    );
    assert_eq!(named(&db, "stage-1").await, 1, "the other is not offered");
}

/// `cache_scope_server_side`: whose record it is, the build's own row says.
pub async fn cache_scope_server_side(db: Db) {
    repository(&db).await;
    let agent = agent(&db, 1).await;
    build(&db, 1, Some("refs/pull/7/head")).await;
    executed(&db, 1, &agent, KEY, "aa").await;
    assert!(found(&db, KEY, &["trusted"]).await.is_none());
    let own = "outside:refs/pull/7/head";
    assert!(
        found(&db, KEY, &["outside:refs/pull/8/head", "trusted"])
            .await
            .is_none()
    );
    assert!(found(&db, KEY, &[own, "trusted"]).await.is_some());
    let scopes = [own.to_owned()];
    let other = db.outcome(&ulid(77), KEY, &scopes).await.expect("readable");
    assert!(other.is_none(), "another repository's");
    build(&db, 2, None).await;
    executed(&db, 2, &agent, KEY, "bb").await;
    let trusted = found(&db, KEY, &["trusted"]).await.expect("its own");
    assert_eq!(trusted.build_id, build_id(2).to_string());
    let first = found(&db, KEY, &[own, "trusted"]).await.expect("recorded");
    assert_eq!(first.scope, own, "its own scope is asked first");
}

/// Nothing is recorded of a failure, of a success after one, or of what was executed without a key.
pub async fn only_a_plain_success_is_recorded(db: Db) {
    repository(&db).await;
    let agent = agent_id(1);
    super::sample::agent(&db, 1).await;
    build(&db, 1, None).await;
    let all = vec![memo(1, KEY, Decided::Execute)];
    db.decide_memo(&build_id(1), all, at(5))
        .await
        .expect("stored");
    assert!(assign(&db, &stage_id(1, 1), 0, &agent).await);
    let mut failed = result(&stage_id(1, 1), 1, &agent, StageState::Failed);
    failed.try_again = true;
    db.finish_attempt(failed).await.expect("stored");
    assert!(assign(&db, &stage_id(1, 1), 1, &agent).await);
    let passed = result(&stage_id(1, 1), 2, &agent, StageState::Succeeded);
    db.finish_attempt(passed).await.expect("stored");
    assert!(found(&db, KEY, &["trusted"]).await.is_none(), "flaky");
    assert!(assign(&db, &stage_id(1, 2), 0, &agent).await);
    let plain = result(&stage_id(1, 2), 1, &agent, StageState::Succeeded);
    let change = db.finish_attempt(plain).await.expect("stored").change;
    assert_eq!(change.expect("ended").status, BuildStatus::Passed);
    assert_eq!(named(&db, "stage-2").await, 0, "it had no key");
    let again = vec![stage_id(1, 1)];
    db.rerun_stages(&build_id(1), again, at(50))
        .await
        .expect("stored");
    let row = db
        .stage(&stage_id(1, 1))
        .await
        .expect("readable")
        .expect("there");
    assert_eq!(
        (row.stage_key, &*row.memo),
        (None, ""),
        "its needs may leave something else now"
    );
    assert_eq!(state_of(&db, &stage_id(1, 1)).await, "ready");
}
