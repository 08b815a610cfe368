//! A database that answers nobody for longer than a dispatcher leads without renewal.

use std::time::Duration;

use slipway_tests::{Postgres, Several, eventually, require};

use crate::{ZERO, crash};

const SOON: Duration = Duration::from_secs(90);
/// Twice as long as the lead lasts, and longer than a client of the database waits for it.
const STALLED: Duration = Duration::from_secs(22);
/// As long as a code host waits for its answer.
const HOST_WAITS: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_database_that_stalls_costs_time_and_loses_doubles_and_repeats_nothing() {
    let (Some(_), Some(server)) = (require("docker"), Postgres::start()) else {
        return;
    };
    let mut several = Several::start(crate::binary(), &server.database("slipway"), 2).await;
    several.start_agent("agent-a").await;
    let (hook, sha) = several.pushed(crash::GATED).await;
    let (leader, _) = several.leader_after(0).await;
    let rest = several.members[leader].rest.clone();
    let push = |id: &'static str| {
        let (hook, rest, body) = (hook.clone(), rest.clone(), hook.push_body(ZERO, &sha));
        async move {
            let answer = hook.at(&rest).deliver(&rest, id, body).await;
            answer.is_ok_and(|answer| (200..300).contains(&answer.status))
        }
    };
    let built = |id: &'static str| {
        let (hook, rest) = (hook.clone(), rest.clone());
        async move {
            let row = rest.decided(&hook, id, SOON).await.expect("decided");
            row["build_id"].as_str().expect("built").to_owned()
        }
    };
    assert!(push("before").await);
    let before = built("before").await;
    rest.stage_is(&before, "slow", "running", SOON)
        .await
        .expect("running");
    let stage = |build: String| {
        let db = several.db.clone();
        async move {
            let stages = db.stages(&build.parse().expect("an id")).await.ok()?;
            stages.into_iter().next()
        }
    };
    let held = stage(before.clone()).await.expect("there");

    server.stall();
    let thawed = tokio::time::sleep(STALLED);
    // It ends meanwhile: its result waits at its agent.
    crash::let_go(&held.stage_id, 1).await;
    let taken = tokio::time::timeout(HOST_WAITS, push("during")).await;
    assert!(
        !taken.unwrap_or(false),
        "acknowledged, and there is nothing that could hold it"
    );
    thawed.await;
    server.go_on();

    let ended = rest.build_ended(&before, SOON).await.expect("ended");
    assert_eq!(ended["status"], "passed", "{ended}");
    let row = stage(before).await.expect("there");
    assert_eq!((row.attempt, row.losses), (1, 0), "nothing was repeated");
    // The code host delivers again; whether the first one was stored after all or not, it is one build.
    let again = eventually("it is taken", SOON, || async {
        push("during").await.then_some(())
    });
    again.await.expect("taken");
    let during = built("during").await;
    let running = eventually("its stage runs", SOON, || async {
        let row = stage(during.clone()).await?;
        (row.state == "running").then_some(row)
    });
    let running = running.await.expect("running");
    crash::let_go(&running.stage_id, 1).await;
    let ended = rest.build_ended(&during, SOON).await.expect("ended");
    assert_eq!(ended["status"], "passed", "{ended}");
    let all = slipway_store::BuildFilter {
        limit: 10,
        ..slipway_store::BuildFilter::default()
    };
    assert_eq!(several.db.builds(&all).await.expect("readable").len(), 2);
}
