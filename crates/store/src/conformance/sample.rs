//! A repository, a hook, builds and agents that the suites share.

use slipway_core::access::PeerRole;
use slipway_core::build::{BuildStatus, Need, StageState};
use slipway_core::id::{AgentId, BuildId, HookId, RepoId, StageId};
use slipway_core::time::Timestamp;

use crate::{
    Assignment, AttemptResult, Created, Db, HookRow, JoinOutcome, NewBuild, NewPeer, NewStage,
    RepositoryRow,
};

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + seconds * 1_000)
}

/// An id with a readable end.
pub(super) fn ulid(n: u32) -> String {
    format!("01ARZ3NDEKTSV4RRFF{n:08}")
}

pub(super) fn repo_id() -> RepoId {
    ulid(1).parse().expect("an id")
}

pub(super) fn hook_id() -> HookId {
    ulid(2).parse().expect("an id")
}

pub(super) fn agent_id(n: u32) -> AgentId {
    ulid(100 + n).parse().expect("an id")
}

pub(super) fn build_id(n: u32) -> BuildId {
    ulid(1_000 * n).parse().expect("an id")
}

pub(super) fn stage_id(build: u32, stage: u32) -> StageId {
    ulid(1_000 * build + stage).parse().expect("an id")
}

pub(super) async fn repository(db: &Db) {
    let row = RepositoryRow {
        repo_id: repo_id().to_string(),
        repo_url: "https://git.example/shop.git".to_owned(),
        name: "shop".to_owned(),
        branch: "main".to_owned(),
        weight: 1,
        reconciled_ms: None,
        created_at: at(0).as_millis(),
    };
    db.insert_repository(row).await.expect("stored");
    let hook = HookRow {
        hook_id: hook_id().to_string(),
        repo_id: repo_id().to_string(),
        scheme: "github".to_owned(),
        webhook_secret: vec![1, 2, 3],
        previous_secret: None,
        previous_until_ms: None,
        host_repo_id: None,
        created_at: at(0).as_millis(),
    };
    db.insert_hook(hook).await.expect("stored");
}

pub(super) async fn agent(db: &Db, n: u32) -> AgentId {
    let hash = format!("join-{n}");
    db.insert_join_token(&hash, "{}", 1, at(1_000), at(0))
        .await
        .expect("stored");
    let new = NewPeer {
        id: agent_id(n).to_string(),
        name: format!("agent-{n}"),
        created: at(0),
    };
    let joined = db.join(&hash, new).await.expect("stored");
    assert_eq!(joined, JoinOutcome::Joined(PeerRole::Agent));
    db.agent_hello(&agent_id(n), "boot", 4, "{}", at(0))
        .await
        .expect("stored");
    agent_id(n)
}

/// A stage that needs nothing is ready; another waits.
pub(super) fn stage(build: u32, n: u32, needs: &[u32]) -> NewStage {
    let need = |n: &u32| Need {
        stage: format!("stage-{n}"),
        optional: false,
    };
    NewStage {
        stage_id: stage_id(build, n),
        name: format!("stage-{n}"),
        spec: "{}".to_owned(),
        needs: needs.iter().map(need).collect(),
        runs_on: "success".to_owned(),
        failure_ignored: false,
        at_most_once: false,
        priority: 5,
        labels: "{}".to_owned(),
        group: None,
        timeout_ms: 60_000,
        cache_key: format!("key-{n}"),
        critical_ms: 1_000 * u64::from(n),
        inputs: String::new(),
        ask: false,
        memo_note: String::new(),
        state: if needs.is_empty() {
            StageState::Ready
        } else {
            StageState::Waiting
        },
        reason: None,
    }
}

pub(super) fn new_build(n: u32, stages: Vec<NewStage>) -> NewBuild {
    NewBuild {
        build_id: build_id(n),
        repo_id: repo_id(),
        pipeline: "default".to_owned(),
        commit_sha: format!("{n:040x}"),
        commit_message: "a change".to_owned(),
        author: "Ada".to_owned(),
        ref_name: "refs/heads/main".to_owned(),
        branch: "main".to_owned(),
        trigger_type: "push".to_owned(),
        event: "push".to_owned(),
        trust: "trusted".to_owned(),
        event_key: Some(format!("event-{n}")),
        lane: None,
        group: None,
        urgent: false,
        errors: serde_json::json!([]),
        variables: serde_json::json!({}),
        deploy: None,
        initiator: "ada".to_owned(),
        committed_at: Some(at(0)),
        created: at(i64::from(n)),
        stages,
        delivery: None,
        status: BuildStatus::Queued,
    }
}

/// A repository, agent 1, and build 1: stage 2 needs stage 1.
pub(super) async fn chain(db: &Db) {
    repository(db).await;
    agent(db, 1).await;
    let stages = vec![stage(1, 1, &[]), stage(1, 2, &[1])];
    let created = db.create_build(new_build(1, stages)).await.expect("stored");
    assert_eq!(
        created,
        Created::New {
            number: 1,
            superseded: Vec::new()
        }
    );
}

/// Assigns a stage; whether it holds.
pub(super) async fn assign(db: &Db, stage: &StageId, attempt: i64, agent: &AgentId) -> bool {
    let assignment = Assignment {
        stage_id: stage.clone(),
        attempt,
        agent_id: agent.clone(),
        token_hash: format!("{stage}/{attempt}"),
    };
    db.assign(vec![assignment], at(10)).await.expect("stored") == [true]
}

pub(super) fn result(
    stage: &StageId,
    attempt: i64,
    agent: &AgentId,
    state: StageState,
) -> AttemptResult {
    AttemptResult {
        stage_id: stage.clone(),
        attempt,
        agent_id: agent.clone(),
        digest: format!("{stage}/{attempt}/{}", state.as_str()),
        state,
        try_again: false,
        reason: None,
        detail: String::new(),
        exit_code: i32::from(state != StageState::Succeeded),
        output_layer: None,
        source_root: None,
        image_uri: None,
        artifacts: Vec::new(),
        reports: Vec::new(),
        spent_ms: [1, 2, 3],
        cache_bytes: [4, 5],
        now: at(20),
    }
}

pub(super) async fn state_of(db: &Db, stage: &StageId) -> String {
    db.stage(stage)
        .await
        .expect("readable")
        .expect("there")
        .state
}
