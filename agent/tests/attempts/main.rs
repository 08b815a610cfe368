//! The agent as a process, against a dispatcher and a cache that do what the test says, with real
//! containers.
#![expect(clippy::unwrap_used, reason = "a test's failure is its message")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod cache;
mod dispatcher;
mod engine;
mod harness;
mod host;
mod inside;
mod limits;
mod reach;
mod reconnecting;
mod stopping;

use std::time::Duration;

use harness::{World, containers, docker, eventually};
use slipway_proto::v1;
use slipway_proto::v1::agent_message::Message as Said;
use slipway_proto::v1::dispatcher_message::Message as Told;

#[tokio::test]
async fn a_stage_is_executed_and_its_log_result_and_artifact_arrive() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[("file", "from the commit\n")]).await;
    world.start_agent().await;
    let commands = [
        "cat file",
        "echo secret: $TOKEN >&2",
        "echo kept > out.txt",
        "exit 3",
    ];
    let key = world
        .assign(&commands, |spec, assign| {
            spec["environment"] = serde_json::json!({"TOKEN": {"from_secret": "token"}});
            spec["artifacts"] = serde_json::json!([{"pattern": "*.txt", "rule": "must_match"}]);
            spec["junit"] = serde_json::json!(["junit.xml"]);
            assign
                .secrets
                .insert("token".to_owned(), "hunter2-hunter2".to_owned());
        })
        .await;
    let result = world.result(&key).await;
    assert_eq!((result.ending(), result.exit_code), (v1::Ending::Exited, 3));
    assert_eq!(result.tests[0].state(), v1::ReportState::Missing);
    assert_eq!(result.artifacts[0].name, "out.txt");
    assert!(result.source_root.is_some());
    let kept = world
        .talk
        .dispatcher
        .with(|i| i.artifacts.get("out.txt").cloned());
    assert_eq!(kept.as_deref(), Some(&b"kept\n"[..]));
    let log = world.log_closed(&key).await;
    assert_eq!(result.log_length, log.len() as u64);
    assert!(log.contains("$ cat file\nfrom the commit\n"), "{log}");
    assert!(
        log.contains("secret: ***\n") && !log.contains("hunter2"),
        "{log}"
    );
    world.containers_gone(&key).await;
}

#[tokio::test]
async fn the_next_stage_begins_with_what_the_last_one_left_even_in_the_strict_sandbox() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[("file", "x\n")]).await;
    world.start_agent().await;
    let first = world.assign(&["echo built > made"], |_, _| {}).await;
    let left = world.result(&first).await;
    let (root, layer) = (left.source_root.unwrap(), left.output_layer.unwrap());
    let second = world
        .assign(
            &["cat made file", "id -u", "echo more >> made"],
            |spec, assign| {
                spec["sandbox"] = "strict".into();
                assign.source.as_mut().unwrap().root = Some(root);
                assign.input_layers = vec![layer];
            },
        )
        .await;
    let result = world.result(&second).await;
    let log = world.log_closed(&second).await;
    assert_eq!(result.exit_code, 0, "{log} {}", result.detail);
    assert!(
        log.contains("built\nx\n") && log.contains("65532\n"),
        "{log}"
    );
}

#[tokio::test]
async fn after_a_kill_the_restarted_agent_finishes_its_container_and_reports_once() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[("file", "x\n")]).await;
    world.start_agent().await;
    let commands = [
        "echo before",
        "while [ ! -e go ]; do sleep 0.1; done",
        "echo after",
    ];
    let key = world.assign(&commands, |_, _| {}).await;
    world.phase(&key, v1::Phase::Running).await;
    let dispatcher = world.talk.dispatcher.clone();
    eventually("the first output", || {
        dispatcher.log(&key).contains("before\n")
    })
    .await;
    world.kill_agent();
    assert!(
        !containers(&key).is_empty(),
        "the container outlives the agent"
    );
    let workspace = world
        .folder
        .path()
        .join("agent/work")
        .join(format!("{}-1", key.stage_id));
    std::fs::write(workspace.join("go"), "").unwrap();
    world.start_agent().await;
    let held = world
        .talk
        .dispatcher
        .with(|i| i.hellos.last().unwrap().held.clone());
    assert_eq!(held[0].attempt.as_ref(), Some(&key));
    let result = world.result(&key).await;
    assert_eq!((result.ending(), result.exit_code), (v1::Ending::Exited, 0));
    assert!(result.output_layer.is_some(), "what it left is kept");
    let log = world.log_closed(&key).await;
    assert!(
        log.ends_with("after\n") && log.matches("\nbefore\n").count() == 1,
        "{log}"
    );
    world.containers_gone(&key).await;
    // A second result would come within the retry.
    let again = tokio::time::timeout(Duration::from_secs(6), async {
        loop {
            if let Some(Said::Result(result)) = world.talk.said.recv().await {
                return result;
            }
        }
    });
    assert!(again.await.is_err(), "one result per attempt");
}

#[tokio::test]
async fn a_cancel_and_a_time_out_end_the_container() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    world.start_agent().await;
    let cancelled = world.assign(&["sleep 100"], |_, _| {}).await;
    world.phase(&cancelled, v1::Phase::Running).await;
    let cancel = v1::Cancel {
        attempt: Some(cancelled.clone()),
        grace_ms: 1_000,
    };
    world.talk.dispatcher.tell(Told::Cancel(cancel)).await;
    assert_eq!(
        world.result(&cancelled).await.ending(),
        v1::Ending::Cancelled
    );
    let late = world
        .assign(&["sleep 100"], |spec, _| spec["timeout_ms"] = 500.into())
        .await;
    let result = world.result(&late).await;
    assert_eq!(result.ending(), v1::Ending::TimedOut, "{result:?}");
    world.containers_gone(&cancelled).await;
    world.containers_gone(&late).await;
}

#[tokio::test]
async fn log_resume_exact_offsets() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    world.start_agent().await;
    world.talk.dispatcher.with(|inner| inner.break_logs = 3);
    let lines =
        ["i=0; while [ $i -lt 20000 ]; do echo \"line number $i of many\"; i=$((i+1)); done"];
    let key = world.assign(&lines, |_, _| {}).await;
    let result = world.result(&key).await;
    assert_eq!(result.exit_code, 0);
    let log = world.log_closed(&key).await;
    let numbers: Vec<&str> = log
        .lines()
        .filter(|l| l.starts_with("line number"))
        .collect();
    assert_eq!(numbers.len(), 20_000);
    for (number, line) in numbers.iter().enumerate() {
        assert_eq!(*line, format!("line number {number} of many"));
    }
    assert_eq!(
        result.log_digest,
        blake3::hash(log.as_bytes()).to_hex().to_string()
    );
}

#[tokio::test]
async fn a_missing_commit_and_a_missing_image_are_told_apart() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    world.start_agent().await;
    let gone = world
        .assign(&["true"], |_, assign| {
            assign.source.as_mut().unwrap().commit_sha = "1".repeat(40);
        })
        .await;
    assert_eq!(world.result(&gone).await.reason, "commit_gone");
    let image = world
        .assign(&["true"], |spec, _| {
            spec["image"] = "127.0.0.1:9/never:1".into();
        })
        .await;
    let result = world.result(&image).await;
    assert_eq!(
        (result.ending(), result.reason.as_str()),
        (v1::Ending::Aborted, "image_pull")
    );
}

struct Registry(std::process::Child);

impl Drop for Registry {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[tokio::test]
async fn the_same_commit_gives_the_same_image_digest_twice() {
    if !docker() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let config = folder.path().join("config.yml");
    let text = format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
        folder.path().join("data").display()
    );
    std::fs::write(&config, text).unwrap();
    let mut command = std::process::Command::new("docker-registry");
    let null = std::process::Stdio::null;
    let started = command
        .arg("serve")
        .arg(&config)
        .stdout(null())
        .stderr(null())
        .spawn();
    let Ok(child) = started else {
        eprintln!("skipped: docker-registry not installed");
        return;
    };
    let _registry = Registry(child);
    eventually("the registry listens", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    })
    .await;
    // The argument makes the builder execute its steps again; it leaves no trace in the image.
    let dockerfile = "FROM slipway-busybox:1\nARG BUST\nCOPY app /app\nRUN echo built > /b\n\
                      FROM slipway-busybox:1\nCOPY --from=0 /app /b /\n";
    let mut world = World::new(&[("app", "hello\n"), ("Dockerfile", dockerfile)]).await;
    world.start_agent().await;
    let mut images = Vec::new();
    for number in 0..2 {
        let key = world
            .assign(&[], |spec, _| {
                spec["image"] = "".into();
                spec["build"] = serde_json::json!({
                    "dockerfile": "Dockerfile", "context": ".", "push": true, "platforms": [],
                    "tags": [format!("127.0.0.1:{port}/team/app:v{number}")],
                    "args": {"BUST": format!("{port}-{number}")}, "secrets": {}
                });
            })
            .await;
        let result = world.result(&key).await;
        let log = world.log_closed(&key).await;
        assert_eq!(result.exit_code, 0, "{log} {}", result.detail);
        let tag = format!("127.0.0.1:{port}/team/app:v{number}");
        let removed = std::process::Command::new("docker")
            .args(["rmi", &tag])
            .output();
        assert!(
            removed.unwrap().status.success(),
            "the engine has what was pushed"
        );
        images.push(result.image.unwrap());
    }
    assert!(images[0].digest.starts_with("sha256:"));
    assert_eq!(images[0].repository, format!("127.0.0.1:{port}/team/app"));
    if images[0].reproducible {
        assert_eq!(images[0].digest, images[1].digest);
    }
}
