//! The crate against a real engine.
#![expect(clippy::unwrap_used, reason = "a test's failure is its message")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use slipway_docker::{
    BuildRequest, ContainerSpec, ContainerState, DockerError, Engine, Limits, LogDriver, labels,
};

const IMAGE: &str = "slipway-busybox:1";

async fn engine() -> Option<Engine> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the harness says what must be there"
    )]
    let required = std::env::var("SLIPWAY_REQUIRE").unwrap_or_default();
    if !std::path::Path::new("/var/run/docker.sock").exists() {
        assert!(
            !required.contains("docker"),
            "docker is required and absent"
        );
        eprintln!("skipped: docker not installed");
        return None;
    }
    Some(Engine::open(None).await.unwrap())
}

fn sh(script: &str) -> ContainerSpec {
    ContainerSpec {
        image: IMAGE.to_owned(),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        labels: BTreeMap::from([(labels::INSTALL.to_owned(), "engine-test".to_owned())]),
        log: LogDriver::Local { max_bytes: 1 << 20 },
        limits: Limits {
            memory_bytes: 64 << 20,
            pids: 32,
            ..Limits::default()
        },
        ..ContainerSpec::default()
    }
}

#[tokio::test]
async fn output_and_exit_of_a_short_container_are_complete() {
    let Some(engine) = engine().await else { return };
    let id = engine
        .create_container(&sh("echo out; echo err >&2; exit 7"))
        .await
        .unwrap();
    let mut output = engine.attach(&id).await.unwrap();
    engine.start_container(&id).await.unwrap();
    let mut end = engine.wait_exit(&id);
    let mut seen = Vec::new();
    while let Some(item) = output.next().await {
        seen.extend_from_slice(&item.unwrap().1);
    }
    assert_eq!(end.exit_code().await.unwrap(), 7);
    let text = String::from_utf8(seen).unwrap();
    assert!(text.contains("out\n") && text.contains("err\n"), "{text}");
    let view = engine.inspect_container(&id).await.unwrap();
    assert_eq!(view.state, ContainerState::Exited(7));
    assert_eq!(view.in_force.limits.memory_bytes, 64 << 20);
    assert!(!view.in_force.privileged);
    let mut again = Vec::new();
    let mut kept = engine.follow_logs(&id);
    while let Some(item) = kept.next().await {
        again.extend_from_slice(&item.unwrap().1);
    }
    assert_eq!(again.len(), text.len(), "the engine kept what was printed");
    engine.remove_container(&id).await.unwrap();
    engine.remove_container(&id).await.unwrap();
    assert!(
        engine
            .inspect_container(&id)
            .await
            .unwrap_err()
            .is_not_found()
    );
}

#[tokio::test]
async fn a_container_is_found_by_label_executes_commands_and_is_stopped() {
    let Some(engine) = engine().await else { return };
    let mut spec = sh("trap 'exit 3' TERM; while :; do sleep 0.1; done");
    spec.labels
        .insert(labels::STAGE.to_owned(), "label-test".to_owned());
    let id = engine.create_container(&spec).await.unwrap();
    engine.start_container(&id).await.unwrap();
    engine.start_container(&id).await.unwrap();
    let found = engine
        .list_containers(&[(labels::STAGE, "label-test")])
        .await
        .unwrap();
    assert!(found.iter().any(|c| c.id == id && c.running));
    let done = engine
        .exec(
            &id,
            &["sh", "-c", "echo hi; exit 4"],
            Duration::from_secs(10),
        )
        .await
        .unwrap();
    assert_eq!((done.exit_code, done.output.as_slice()), (4, &b"hi\n"[..]));
    engine
        .stop_container(&id, Duration::from_secs(10))
        .await
        .unwrap();
    let state = engine.inspect_container(&id).await.unwrap().state;
    assert_eq!(state, ContainerState::Exited(3));
    engine.remove_container(&id).await.unwrap();
}

#[tokio::test]
async fn what_does_not_exist_is_a_typed_error() {
    let Some(engine) = engine().await else { return };
    let mut spec = sh("true");
    spec.image = "slipway-no-such-image:1".to_owned();
    let error = engine.create_container(&spec).await.unwrap_err();
    assert!(matches!(error, DockerError::NotFound(_)), "{error}");
}

/// The image's own word counts where the spec has none, and is checked as the spec's is.
#[tokio::test]
async fn hostile_h037_no_container_stands_in_a_folder_of_the_kernels_whoever_asks_for_it() {
    let Some(engine) = engine().await else { return };
    let facts = engine.facts().await.unwrap();
    for (number, workdir, good) in [(1, "/srv/shop", true), (2, "/proc/self/fd/8", false)] {
        let tag = format!("slipway-test-workdir:{number}");
        let mut request = build(&tag, &format!("session-workdir-{number}"), &[]);
        let file = format!("FROM slipway-busybox:1\nWORKDIR {workdir}\n");
        request.context = context(&[("Dockerfile", &file)]);
        engine.build_image(&request, &facts, |_| {}).await.unwrap();
        let mut spec = sh("pwd");
        spec.image.clone_from(&tag);
        let by_image = engine.create_container(&spec).await;
        spec.workdir = Some(workdir.to_owned());
        spec.image = IMAGE.to_owned();
        let by_spec = engine.create_container(&spec).await;
        for created in [by_image, by_spec] {
            match created {
                Ok(id) => {
                    assert!(good, "{workdir} was accepted");
                    engine.start_container(&id).await.unwrap();
                    assert_eq!(engine.wait_exit(&id).exit_code().await.unwrap(), 0);
                    let mut output = engine.follow_logs(&id);
                    let (_, said) = output.next().await.unwrap().unwrap();
                    assert_eq!(said, Bytes::from(format!("{workdir}\n")));
                    engine.remove_container(&id).await.unwrap();
                }
                Err(error) => {
                    assert!(!good, "{workdir}: {error}");
                    assert!(matches!(error, DockerError::Workdir { .. }), "{error}");
                }
            }
        }
        engine.remove_image(&tag).await.unwrap();
    }
}

fn context(files: &[(&str, &str)]) -> Bytes {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        builder
            .append_data(&mut header, path, text.as_bytes())
            .unwrap();
    }
    builder.into_inner().unwrap().into()
}

fn build(tag: &str, session: &str, args: &[(&str, &str)]) -> BuildRequest {
    let args = args.iter().map(|&(k, v)| (k.to_owned(), v.to_owned()));
    BuildRequest {
        context: context(&[
            (
                "Dockerfile",
                "FROM slipway-busybox:1\nARG BUST\nCOPY a /a\nRUN echo built > /b; date +%N > /dev/null\nFROM slipway-busybox:1\nCOPY --from=0 /a /b /\n",
            ),
            ("a", "one"),
        ]),
        dockerfile: "Dockerfile".to_owned(),
        tag: tag.to_owned(),
        args: args.collect(),
        cache_namespace: "one".to_owned(),
        labels: BTreeMap::new(),
        source_date_epoch: 1_700_000_000,
        platform: String::new(),
        credentials: BTreeMap::new(),
        session: session.to_owned(),
        limit: Duration::from_secs(120),
    }
}

#[tokio::test]
async fn the_same_input_gives_the_same_image_and_the_builders_output_is_told() {
    let Some(engine) = engine().await else { return };
    let facts = engine.facts().await.unwrap();
    let mut told = Vec::new();
    let first = engine
        .build_image(
            &build("slipway-test-build:1", "session-one", &[("BUST", "1")]),
            &facts,
            |b| {
                told.extend_from_slice(b);
            },
        )
        .await
        .unwrap();
    // The build argument changes nothing in the image but makes the builder execute every step anew.
    let second = engine
        .build_image(
            &build("slipway-test-build:2", "session-two", &[("BUST", "2")]),
            &facts,
            |_| {},
        )
        .await
        .unwrap();
    if first.reproducible {
        assert_eq!(first.id, second.id);
    }
    assert!(!told.is_empty());
    engine.remove_image("slipway-test-build:1").await.unwrap();
    engine.remove_image("slipway-test-build:2").await.unwrap();
}

#[tokio::test]
async fn hostile_h097_a_cache_of_one_project_is_empty_for_another_and_nothing_is_granted() {
    let Some(engine) = engine().await else { return };
    let facts = engine.facts().await.unwrap();
    if !facts.buildkit {
        return;
    }
    let unique = std::process::id();
    let mut request = build("slipway-test-build:cache", "session-cache", &[]);
    let mut built = async |project: &str, step: String| {
        request.cache_namespace = format!("{project}-{unique}");
        let dockerfile = format!("FROM slipway-busybox:1\nRUN {step}\n");
        request.context = context(&[("Dockerfile", &dockerfile)]);
        engine.build_image(&request, &facts, |_| {}).await
    };
    let mount = "--mount=type=cache,id=shared,target=/c";
    let write = format!("{mount} echo {unique} > /c/poison");
    built("one", write).await.unwrap();
    // The same project finds it, so the next answer means something.
    built("one", format!("{mount} grep {unique} /c/poison"))
        .await
        .unwrap();
    built("two", format!("{mount} echo {unique}; test ! -e /c/poison"))
        .await
        .unwrap();
    let insecure = built("one", format!("--security=insecure echo {unique}")).await;
    assert!(insecure.is_err(), "an entitlement that nobody gave");
    engine
        .remove_image("slipway-test-build:cache")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_failing_build_step_is_an_error_with_the_builders_words() {
    let Some(engine) = engine().await else { return };
    let facts = engine.facts().await.unwrap();
    let mut request = build("slipway-test-build:bad", "session-bad", &[]);
    request.context = context(&[(
        "Dockerfile",
        "FROM slipway-busybox:1\nRUN echo before-the-end; exit 9\n",
    )]);
    let mut told = Vec::new();
    let error = engine
        .build_image(&request, &facts, |b| told.extend_from_slice(b))
        .await
        .unwrap_err();
    assert!(error.to_string().contains('9'), "{error}");
    assert!(String::from_utf8_lossy(&told).contains("before-the-end"));
}
