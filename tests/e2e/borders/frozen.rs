//! Two coordinators, one of which is frozen in the middle of an effect for longer than its lease, and wakes up
//! when the other has carried the rollout to its end: whatever it then does with its old fence is refused.

use std::time::Duration;

use slipway_store::{RolloutRow, Settings};
use slipway_tests::{Postgres, Process, eventually, free_address, require};

use super::service::{Service, Way};

/// A lease of 15 s, a look each 5 s, and the rollout itself, on a loaded machine.
const ENDS: Duration = Duration::from_secs(90);

/// Where the first one freezes: what it would do next, when it wakes up, is an effect of its own.
const FREEZES: [(&str, &str); 3] = [
    ("blue-green", "before effect ensure_new#1"),
    ("blue-green", "before effect route#1"),
    ("canary", "before effect route#2"),
];

fn is_frozen(process: &Process) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap_or_default();
    // Behind the name, which is in parentheses.
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}

async fn ended(service: &Service, id: &str) -> RolloutRow {
    let ended = eventually("the rollout ends", ENDS, || async {
        let row = service.db.rollout(id).await.ok()??;
        (row.status != "in_progress").then_some(row)
    });
    ended.await.expect("ended")
}

async fn wakes_up_too_late(database: String, strategy: &str, at: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut service = Service::start_over(folder, Settings::Postgres(database), strategy).await;
    service.kill();
    let address = || free_address().expect("a free port");
    let (first_at, second_at) = (address(), address());
    let faults = [("SLIPWAY_STOP_AT", at.to_owned())];
    let first = service.coordinator("node", first_at, &faults).await;
    service.next();
    let asked = service
        .ask_at(first_at, Way::Forward, strategy, "two")
        .await;
    let frozen = eventually("it freezes", ENDS, || async {
        is_frozen(&first).then_some(())
    });
    frozen.await.expect("frozen");

    service.identify("other");
    let _second = service.coordinator("other", second_at, &[]).await;
    let again = service
        .ask_at(second_at, Way::Forward, strategy, "two")
        .await
        .expect("answered");
    assert!(asked.is_none_or(|id| id == again), "one rollout");
    let row = ended(&service, &again).await;
    assert_eq!(row.status, "completed", "{at}: {row:#?}");
    let serving = service.serving().await;
    assert_eq!(serving, row.target_version);

    first.signal("CONT");
    // It answers again, and whatever it was about to do is behind it when its next rollout has ended.
    service.next();
    let taken = eventually("it takes a rollout", ENDS, || async {
        service
            .ask_at(first_at, Way::Forward, strategy, "one")
            .await
    });
    let after = ended(&service, &taken.await.expect("taken")).await;
    assert_eq!(after.status, "completed", "{at}: {after:#?}");
    assert_eq!(service.serving().await, after.target_version);
    if at.contains("route") {
        // It did try, and was refused, or its call had run out of time while it was frozen: without that
        // traffic would have gone back to where it was.
        let log = first.log();
        let ends = ["fenced by a newer token", "outcome unknown"];
        assert!(ends.iter().any(|end| log.contains(end)), "{at}: {log}");
    }
    let still = service.db.rollout(&again).await.expect("readable");
    let still = still.expect("there");
    assert_eq!(
        (still.status.as_str(), still.row_version),
        ("completed", row.row_version),
        "{at}: nobody touched it again"
    );
    let left = eventually("nothing is left over", ENDS, || async {
        service.leftovers().await.is_empty().then_some(())
    });
    left.await.expect("swept");
    let (answered, failures) = service.clients_saw().await;
    assert!(answered > 100, "only {answered} requests");
    assert_eq!(failures.len(), 0, "of {answered}: {:?}", failures.first());
}

#[tokio::test(flavor = "multi_thread")]
async fn deploy_env_lock_fencing_a_coordinator_that_wakes_up_too_late_changes_nothing() {
    let (Some(_), Some(server)) = (require("docker"), Postgres::start()) else {
        return;
    };
    let mut under_way = tokio::task::JoinSet::new();
    for (n, (strategy, at)) in FREEZES.into_iter().enumerate() {
        let database = server.database(&format!("frozen{n}"));
        under_way.spawn(wakes_up_too_late(database, strategy, at));
    }
    while let Some(done) = under_way.join_next().await {
        done.expect("it changes nothing");
    }
}
