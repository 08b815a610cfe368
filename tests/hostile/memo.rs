//! Records of what stages came to, as somebody would misuse them.

use std::time::Duration;

use serde_json::{Value, json};
use slipway_dispatcher::source::Commit;
use slipway_proto::v1::{self, Facts};
use slipway_tests::bare::hello;
use slipway_tests::cluster::FAKE_URL;
use slipway_tests::{BareAgent, Cluster, Hook, Parts};

use crate::forks::requested;

const SOON: Duration = Duration::from_secs(20);
const PINNED: &str = "x@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// One tree, whatever the commit, in which no file names a variable.
fn commit(cluster: &Cluster, number: u32, stages: &str) -> String {
    let sha = format!("{number:040x}");
    let head = "version: 1\non:\n  push:\n  pull_request:\n  manual:\n";
    let defaults = format!("defaults: {{image: \"{PINNED}\", sandbox: strict}}\n");
    let commit = Commit {
        pipelines: vec![(
            "default".to_owned(),
            format!("{head}{defaults}stages:\n{stages}"),
        )],
        tree: "a".repeat(40),
        named: Some(Vec::new()),
        time_s: 1_700_000_000 + i64::from(number),
        ..Commit::default()
    };
    cluster.source.put(&sha, commit);
    sha
}

async fn installation() -> (Cluster, Hook, BareAgent) {
    let parts = Parts {
        agents: 0,
        ..Parts::default()
    };
    let cluster = Cluster::start_with(parts).await;
    let repo = cluster.rest.add_repository(FAKE_URL).await.expect("added");
    let hook = cluster.rest.add_hook(&repo, "github").await.expect("made");
    let mut proven = hello();
    proven.facts = Some(Facts {
        strict_proven: true,
        ..Facts::default()
    });
    let agent = BareAgent::join_with(&cluster, proven).await;
    (cluster, hook, agent)
}

async fn started(cluster: &Cluster, sha: &str) -> String {
    let body = json!({"repo_url": FAKE_URL, "commit_sha": sha});
    let build = cluster.rest.post("/builds", body).await.expect("started");
    build["build_id"].as_str().expect("an id").to_owned()
}

async fn ended(cluster: &Cluster, id: &str) -> Value {
    let build = cluster.rest.build_ended(id, SOON).await.expect("ended");
    assert_eq!(build["status"], "passed", "{build:#}");
    build
}

/// The next stage that is executed, by its name.
async fn next(agent: &mut BareAgent) -> (String, v1::Assign) {
    let assign = agent.assigned(SOON).await.expect("assigned");
    (assign.environment["CI_STEP_NAME"].clone(), assign)
}

fn left(assign: &v1::Assign, layer: char) -> v1::Result {
    v1::Result {
        attempt: assign.attempt.clone(),
        ending: v1::Ending::Exited.into(),
        output_layer: Some(layer.to_string().repeat(64)),
        ..v1::Result::default()
    }
}

const MAKE: &str = "  make: {commands: [make]}\n";

#[tokio::test]
async fn hostile_h061_what_code_from_outside_came_to_is_never_recalled_for_a_trusted_build() {
    let (cluster, hook, mut agent) = installation().await;
    let theirs = commit(&cluster, 1, MAKE);
    let executing = async {
        let (_, assign) = next(&mut agent).await;
        agent.succeed(assign.attempt).await;
    };
    let (fork, ()) = tokio::join!(requested(&cluster, &hook, &theirs, 666), executing);
    assert_eq!(fork["stages_recalled"], 0, "{fork:#}");
    // The same tree, the same stage, trusted: executed once more.
    let ours = started(&cluster, &commit(&cluster, 2, MAKE)).await;
    let (_, assign) = next(&mut agent).await;
    agent.succeed(assign.attempt).await;
    let ours = ended(&cluster, &ours).await;
    assert_eq!(ours["stages_recalled"], 0, "{ours:#}");
    let memo = ours["stages"][0]["memo"].as_str().unwrap_or_default();
    assert!(memo.contains("never seen in this scope"), "{memo}");
    // Each reads its own from now on, and no agent hears of it.
    let again = started(&cluster, &commit(&cluster, 3, MAKE)).await;
    let again = ended(&cluster, &again).await;
    let from = &again["stages"][0]["recalled_from"]["build_id"];
    assert_eq!(*from, ours["build_id"], "{again:#}");
    let theirs = requested(&cluster, &hook, &commit(&cluster, 4, MAKE), 667).await;
    let from = &theirs["stages"][0]["recalled_from"]["build_id"];
    assert_eq!(*from, fork["build_id"], "{theirs:#}");
    cluster.stop().await;
}

#[tokio::test]
async fn hostile_h061_a_fork_is_told_to_read_trusted_cache_entries_and_to_write_its_own_alone() {
    let (cluster, hook, mut agent) = installation().await;
    // What a file says of scopes in its key is a part of a key.
    let stage = "  make: {commands: [make], cache: {key: \"x/trusted\", paths: [p]}}\n";
    let mut scope = None;
    let executing = async {
        let (_, assign) = next(&mut agent).await;
        agent.succeed(assign.attempt).await;
        scope = assign.cache_scope;
    };
    let theirs = commit(&cluster, 1, stage);
    tokio::join!(requested(&cluster, &hook, &theirs, 666), executing);
    let fork = scope.expect("a scope");
    let ours = started(&cluster, &commit(&cluster, 2, stage)).await;
    let (_, assign) = next(&mut agent).await;
    agent.succeed(assign.attempt).await;
    ended(&cluster, &ours).await;
    let trusted = assign.cache_scope.expect("a scope");
    assert!(trusted.trusted && !fork.trusted);
    assert_eq!(trusted.read, std::slice::from_ref(&trusted.write));
    assert_eq!(fork.read, [fork.write.clone(), trusted.write.clone()]);
    assert_ne!(fork.write, trusted.write);
    assert!(trusted.write.starts_with(&assign.repo_id), "{trusted:?}");
    cluster.stop().await;
}

#[tokio::test]
async fn what_is_not_in_the_key_is_not_in_the_container() {
    let (cluster, _, mut agent) = installation().await;
    let stages = "  a: {commands: [make]}\n  b: {needs: [a], commands: [\"echo $CI_COMMIT_SHA\"]}\n  c: {needs: [b], commands: [make], memoize: false}\n";
    let id = started(&cluster, &commit(&cluster, 1, stages)).await;
    for (name, sees) in [
        ("a", [false, false]),
        ("b", [true, false]),
        ("c", [true, true]),
    ] {
        let (named, assign) = next(&mut agent).await;
        assert_eq!(named, name);
        let seen = |name: &str| assign.environment.contains_key(name);
        assert_eq!(
            [seen("CI_COMMIT_SHA"), seen("SLIPWAY_BUILD_ID")],
            sees,
            "{name}"
        );
        assert!(
            seen("CI") && seen("CI_REPO") && seen("CI_SYSTEM_URL"),
            "{name}"
        );
        agent.succeed(assign.attempt).await;
    }
    ended(&cluster, &id).await;
    let id = started(&cluster, &commit(&cluster, 2, stages)).await;
    for name in ["b", "c"] {
        let (named, assign) = next(&mut agent).await;
        assert_eq!(named, name, "of another commit only these are executed");
        agent.succeed(assign.attempt).await;
    }
    ended(&cluster, &id).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_record_whose_layer_nobody_holds_is_a_miss_and_one_that_turns_out_so_is_executed_after_all()
 {
    let (cluster, _, mut agent) = installation().await;
    let stages = |use_it: &str| format!("{MAKE}  use: {{needs: [make], commands: [{use_it}]}}\n");
    let id = started(&cluster, &commit(&cluster, 1, &stages("one"))).await;
    for _ in 0..2 {
        let (_, assign) = next(&mut agent).await;
        agent.report(left(&assign, 'a')).await;
    }
    ended(&cluster, &id).await;
    let id = started(&cluster, &commit(&cluster, 2, &stages("two"))).await;
    let (name, assign) = next(&mut agent).await;
    assert_eq!(
        (&*name, &*assign.input_layers),
        ("use", &["a".repeat(64)][..])
    );
    let gone = v1::Result {
        attempt: assign.attempt.clone(),
        ending: v1::Ending::Aborted.into(),
        reason: "content_gone".to_owned(),
        ..v1::Result::default()
    };
    agent.report(gone).await;
    let (name, assign) = next(&mut agent).await;
    assert_eq!(name, "make", "executed after all");
    agent.report(left(&assign, 'b')).await;
    let (name, assign) = next(&mut agent).await;
    assert_eq!(
        (&*name, &*assign.input_layers),
        ("use", &["b".repeat(64)][..])
    );
    agent.report(left(&assign, 'c')).await;
    let build = ended(&cluster, &id).await;
    assert_eq!(build["stages_recalled"], 0, "{build:#}");
    // Another agent comes in its place: of what the first one held nothing is known any more.
    drop(agent);
    let mut agent = BareAgent::join(&cluster).await;
    let id = started(&cluster, &commit(&cluster, 3, &stages("two"))).await;
    let (name, assign) = next(&mut agent).await;
    assert_eq!(name, "make");
    agent.report(left(&assign, 'd')).await;
    let (name, assign) = next(&mut agent).await;
    assert_eq!(name, "use");
    agent.report(left(&assign, 'e')).await;
    let build = ended(&cluster, &id).await;
    let memo = build["stages"][0]["memo"].as_str().unwrap_or_default();
    assert!(memo.contains("no connected agent holds"), "{memo}");
    cluster.stop().await;
}
