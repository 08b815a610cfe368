//! What a hostile stage tries while it is executed, through a whole agent. The limits themselves are tried
//! one by one by the sandbox probe.

use slipway_proto::v1;

use crate::harness::{World, docker};

#[tokio::test]
async fn hostile_h090_a_fork_bomb_fails_its_stage_and_the_next_stage_does_not_notice() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    world.start_agent().await;
    let bomb = world
        .assign(&["while :; do sleep 60 & done"], |spec, _| {
            spec["sandbox"] = "strict".into();
        })
        .await;
    let result = world.result(&bomb).await;
    assert_ne!(result.exit_code, 0, "it cannot go on");
    world.containers_gone(&bomb).await;
    let next = world.assign(&["echo calm"], |_, _| {}).await;
    assert_eq!(world.result(&next).await.exit_code, 0);
    assert!(world.log_closed(&next).await.contains("\ncalm\n"));
}

#[tokio::test]
async fn hostile_h093_a_set_user_id_program_gains_nothing() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    world.start_agent().await;
    // Root's own program with the bit, executed by somebody else.
    let commands = [
        "cp /bin/busybox /tmp/raise && chmod 4755 /tmp/raise && ls -l /tmp/raise",
        "printf 'nobody2:x:4242:4242::/:/bin/sh\\n' >> /etc/passwd; su nobody2 -c '/tmp/raise id -u' || setpriv --reuid 4242 /tmp/raise id -u || echo refused",
    ];
    let key = world.assign(&commands, |_, _| {}).await;
    let _either_way = world.result(&key).await;
    let log = world.log_closed(&key).await;
    assert!(log.contains("rws"), "control: the bit is there: {log}");
    let gained = log.lines().any(|line| line == "0");
    assert!(!gained, "it became root: {log}");
    let tried = log.lines().any(|line| line == "4242" || line == "refused");
    assert!(tried, "nothing was tried: {log}");
}

#[tokio::test]
async fn hostile_h094_whoever_wants_to_outlive_the_stage_ends_with_it() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    world.start_agent().await;
    // In a session of its own, and holding the stage's output open.
    let key = world
        .assign(
            &["(setsid sh -c 'while :; do sleep 1; done' &)", "echo over"],
            |_, _| {},
        )
        .await;
    let result = world.result(&key).await;
    assert_eq!(result.exit_code, 0, "{}", result.detail);
    assert!(world.log_closed(&key).await.contains("\nover\n"));
    world.containers_gone(&key).await;
}

#[tokio::test]
async fn hostile_h098_no_credential_of_the_agent_is_anywhere_in_a_stage() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    world.start_agent().await;
    let commands = [
        "env; tr '\\0' '\\n' < /proc/1/environ; cat /proc/self/mountinfo",
        "cat ~/.docker/config.json /root/.docker/config.json /run/secrets/* 2>&1 || true",
        "find / -xdev \\( -name '*.pem' -o -name 'identity*' -o -name 'docker.sock' \\) 2>/dev/null | sed 's/^/found: /'",
        "grep -rl 'PRIVATE KEY' /workspace /tmp /run /etc /root 2>/dev/null | sed 's/^/found: /'; echo looked",
    ];
    let key = world.assign(&commands, |_, _| {}).await;
    let result = world.result(&key).await;
    let log = world.log_closed(&key).await;
    assert_eq!(result.exit_code, 0, "{log}");
    assert!(log.contains("\nlooked\n"), "{log}");
    let joined = world.talk.dispatcher.join_token();
    let secret = joined.split('.').next().unwrap_or_default().to_owned();
    for word in [
        "found: ",
        "PRIVATE KEY",
        "identity.pem",
        "JOIN_TOKEN",
        "docker.sock",
    ] {
        let shown = log
            .lines()
            .find(|line| line.contains(word) && !line.contains("find /"));
        let own = shown.filter(|line| !line.contains("grep -rl"));
        assert!(own.is_none(), "{word}: {own:?}");
    }
    assert!(!log.lines().any(|line| line == secret), "the join token");
}

#[tokio::test]
async fn hostile_h097_a_dockerfile_that_brings_its_own_frontend_is_not_built() {
    if !docker() {
        return;
    }
    let dockerfile = "# syntax=evil/frontend\nFROM slipway-busybox:1\n";
    let mut world = World::new(&[("Dockerfile", dockerfile)]).await;
    world.start_agent().await;
    let key = world
        .assign(&[], |spec, _| {
            spec["image"] = "".into();
            spec["build"] = serde_json::json!({
                "dockerfile": "Dockerfile", "context": ".", "push": false, "platforms": [],
                "tags": ["slipway-test-evil:1"], "args": {}, "secrets": {}
            });
        })
        .await;
    let result = world.result(&key).await;
    assert_eq!(
        (result.ending(), result.reason.as_str()),
        (v1::Ending::Limit, "frontend_refused")
    );
    assert!(result.detail.contains("Dockerfile:1"), "{}", result.detail);
}
