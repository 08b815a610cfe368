//! What a stage gets and no more: services beside it, memory, room in its log.

use slipway_proto::v1;

use crate::harness::{World, docker, eventually, networks};

fn service(command: &str, ready: &str) -> serde_json::Value {
    serde_json::json!([{
        "name": "web", "image": "slipway-busybox:1", "environment": {"GREETING": {"plain": "hello from web"}},
        "command": ["sh", "-c", command], "ready": ready
    }])
}

#[tokio::test]
async fn a_service_is_reached_by_its_name_and_is_gone_with_its_network_afterwards() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    world.start_agent().await;
    let serve = "echo \"$GREETING\" > /tmp/index.html; exec httpd -f -p 8080 -h /tmp";
    let key = world
        .assign(&["wget -q -O - http://web:8080/index.html"], |spec, _| {
            spec["services"] = service(
                serve,
                "wget -q -O /dev/null http://127.0.0.1:8080/index.html",
            );
        })
        .await;
    let result = world.result(&key).await;
    let log = world.log_closed(&key).await;
    assert_eq!(result.exit_code, 0, "{log} {}", result.detail);
    assert!(log.contains("\nhello from web\n"), "{log}");
    world.containers_gone(&key).await;
    eventually("the network is removed", || networks(&key).is_empty()).await;
}

#[tokio::test]
async fn a_strict_stage_reaches_its_service_and_no_way_leads_further() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    world.start_agent().await;
    let serve = "echo served > /tmp/index.html; exec httpd -f -p 8080 -h /tmp";
    let ready = "wget -q -O /dev/null http://127.0.0.1:8080/index.html";
    // A way out is a route to everywhere: 0.0.0.0.
    let commands = [
        "wget -q -O - http://web:8080/index.html",
        "if awk '$2 == \"00000000\" {found = 1} END {exit !found}' /proc/net/route; then echo out; else echo closed; fi",
    ];
    for (sandbox, way) in [("standard", "\nout\n"), ("strict", "\nclosed\n")] {
        let key = world
            .assign(&commands, |spec, _| {
                spec["services"] = service(serve, ready);
                spec["sandbox"] = sandbox.into();
            })
            .await;
        let result = world.result(&key).await;
        let log = world.log_closed(&key).await;
        assert_eq!(result.exit_code, 0, "{sandbox}: {log} {}", result.detail);
        assert!(log.contains("\nserved\n"), "{sandbox}: {log}");
        assert!(log.contains(way), "{sandbox}: {log}");
        world.containers_gone(&key).await;
        eventually("the network is removed", || networks(&key).is_empty()).await;
    }
}

#[tokio::test]
async fn a_service_that_cannot_start_fails_the_stage_and_leaves_nothing() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    world.start_agent().await;
    let key = world
        .assign(&["true"], |spec, _| {
            spec["services"] = service("true", "true");
            spec["services"][0]["command"] = serde_json::json!(["/no/such/program"]);
        })
        .await;
    let result = world.result(&key).await;
    assert_eq!(
        (result.ending(), result.reason.as_str()),
        (v1::Ending::Limit, "service_not_ready"),
        "{result:?}"
    );
    for part in ["`web` ended with exit code", "/no/such/program"] {
        assert!(result.detail.contains(part), "{result:?}");
    }
    world.containers_gone(&key).await;
    eventually("the network is removed", || networks(&key).is_empty()).await;
}

#[tokio::test]
async fn hostile_h091_a_stage_that_needs_more_memory_than_its_limit_is_told_the_limit() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    "memory_mib = 32\n".clone_into(&mut world.settings);
    world.start_agent().await;
    // The killed process is not the last word: the shell around it ends with a code of its own.
    for command in ["tail /dev/zero", "tail /dev/zero || exit 2"] {
        let key = world.assign(&[command], |_, _| {}).await;
        let result = world.result(&key).await;
        assert_eq!(
            (result.ending(), result.reason.as_str()),
            (v1::Ending::Limit, "oom"),
            "{result:?}"
        );
        assert!(result.detail.contains("limit of 32 MiB"), "{result:?}");
        let log = world.log_closed(&key).await;
        assert!(log.contains("slipway: out of memory: "), "{log}");
    }
    let key = world.assign(&["exit 137"], |_, _| {}).await;
    let result = world.result(&key).await;
    assert_eq!(
        (result.ending(), result.exit_code),
        (v1::Ending::Exited, 137),
        "a code alone is no proof"
    );
}

#[tokio::test]
async fn a_log_ends_at_its_limit_and_says_so() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    "log_limit_mib = 1\n".clone_into(&mut world.settings);
    world.start_agent().await;
    // One that goes on is ended; one that is over already has failed all the same.
    let print = "yes abcdefghijklmnopqrstuvwxyz | head -c 2000000";
    for commands in [&[print, "sleep 1000"][..], &[print]] {
        let key = world.assign(commands, |_, _| {}).await;
        let result = world.result(&key).await;
        assert_eq!(
            (result.ending(), result.reason.as_str()),
            (v1::Ending::Limit, "log_limit"),
            "{result:?}"
        );
        let log = world.log_closed(&key).await;
        assert!(log.len() <= 1 << 20 && log.len() > 900_000, "{}", log.len());
        let (last, before) = (log.lines().next_back(), log.lines().count());
        assert!(before > 30_000, "{before} lines");
        assert_eq!(
            last,
            Some(
                "slipway: the log is cut here: it reached its limit of 1 MiB, which ends the stage"
            )
        );
        assert_eq!(result.log_length, log.len() as u64);
        world.containers_gone(&key).await;
    }
}

#[tokio::test]
async fn a_stage_that_fills_the_disk_is_ended_wherever_in_its_container_it_writes() {
    if !docker() {
        return;
    }
    let mut world = World::new(&[]).await;
    "disk_mib = 32\n".clone_into(&mut world.settings);
    world.start_agent().await;
    for place in ["/workspace/big", "/home-of-nobody"] {
        let fill = format!("dd if=/dev/zero of={place} bs=1M count=80 2>/dev/null");
        let key = world.assign(&[&fill, "sleep 300"], |_, _| {}).await;
        let result = world.result(&key).await;
        let word = (result.ending(), result.reason.as_str());
        assert_eq!(
            word,
            (v1::Ending::Limit, "disk_quota"),
            "{place}: {result:?}"
        );
        assert!(result.detail.contains("more than its 32 MiB"), "{result:?}");
        world.containers_gone(&key).await;
    }
    let fits = "dd if=/dev/zero of=/workspace/fits bs=1M count=8 2>/dev/null";
    let key = world.assign(&[fits, "sleep 5"], |_, _| {}).await;
    assert_eq!(world.result(&key).await.exit_code, 0);
}
