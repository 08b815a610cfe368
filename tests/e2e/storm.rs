//! A hundred agents come back at once; a commit whose answer never comes.

use std::sync::Arc;
use std::time::Duration;

use slipway_agent::sandbox::fake::FakeSandbox;
use slipway_core::id::AgentId;
use slipway_daemon::{Clock, Shutdown};
use slipway_tests::proxy::Line;
use slipway_tests::{Postgres, Proxy, Several, eventually};

use crate::place::Place;
use crate::{ZERO, crash::GATED};

const AGENTS: usize = 100;
const SOON: Duration = Duration::from_secs(90);
/// All agents are back within this.
const BACK: Duration = Duration::from_secs(30);

/// How many agents say that they came after this instant, by their rows.
async fn connected_since(place: &Place, since_ms: i64) -> usize {
    let db = place.db().await;
    let rows = db.agents().await.unwrap_or_default();
    db.close().await;
    rows.iter()
        .filter(|row| row.connected_ms.is_some_and(|at| at > since_ms))
        .count()
}

/// I-29: real agents over real connections, with nothing behind them.
#[tokio::test]
async fn thundering_reconnect() {
    let mut place = Place::sqlite().await;
    place.start_dispatcher().await;
    let (clock, stop) = (Clock::system(), Shutdown::new());
    let made = place
        .rest
        .post("/agents/join-tokens", serde_json::json!({"uses": AGENTS}))
        .await;
    let made = made.expect("a token");
    let text = made["join_token"].as_str().expect("a token");
    for number in 0..AGENTS {
        let dir = place.dir().join(format!("storm-{number}"));
        std::fs::create_dir_all(&dir).expect("a folder");
        let mut config = slipway_agent::config::Config::in_dir(&dir);
        config.dispatcher = place.grpc();
        text.clone_into(&mut config.join_token);
        config.slots = 1;
        let mut parts = slipway_agent::Parts::real();
        parts.sandbox = Some(Arc::new(FakeSandbox::new()));
        parts.content = false;
        stop.spawn("agent", slipway_agent::serve(config, parts, stop.child()));
    }
    let all = eventually("all have come", SOON, || async {
        (connected_since(&place, 0).await == AGENTS).then_some(())
    });
    all.await.expect("come");

    place.kill_dispatcher();
    let killed = clock.now().as_millis();
    place.start_dispatcher().await;
    let up = clock.monotonic();
    let back = eventually("all are back", BACK, || async {
        // Intake answers all the while.
        let asked = place.rest.get("/builds").await;
        asked.expect("answered in the storm");
        (connected_since(&place, killed).await == AGENTS).then_some(())
    });
    back.await.expect("back");
    let took = clock.monotonic() - up;
    assert!(took < BACK, "{took:?}");
    let rows: Vec<AgentId> = {
        let db = place.db().await;
        let rows = db.agents().await.expect("readable");
        db.close().await;
        rows.iter()
            .filter_map(|row| row.agent_id.parse().ok())
            .collect()
    };
    assert_eq!(rows.len(), AGENTS, "each is still itself");
    stop.begin();
}

/// I-21: the answer to a COMMIT is lost on the way. The sender is told nothing good, sends again, and
/// there is one delivery and one build.
#[tokio::test]
async fn pg_commit_unknown() {
    let Some(server) = Postgres::start() else {
        return;
    };
    let _made = server.database("slipway");
    let proxy = Proxy::open(([127, 0, 0, 1], server.port()).into()).await;
    let database = format!("postgres://slipway@{}/slipway", proxy.at());
    let several = Several::start(crate::binary(), &database, 1).await;
    let (hook, sha) = several.pushed(GATED).await;
    several.leader().await;
    let rest = &several.members[0].rest;
    let body = hook.push_body(ZERO, &sha);
    for round in 0..5 {
        let id = format!("push-{round}");
        // Everything reaches the database, and nothing comes back.
        proxy.is(Line::Mute);
        let patience = Duration::from_millis(700);
        let unknown = tokio::time::timeout(patience, hook.deliver(rest, &id, body.clone())).await;
        let acknowledged =
            matches!(&unknown, Ok(Ok(answer)) if (200..300).contains(&answer.status));
        assert!(!acknowledged, "nobody knows whether it is durable");
        proxy.is(Line::Cut);
        let ended = eventually("the connections are gone", SOON, || async {
            let idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'slipway' \
                        AND pid <> pg_backend_pid()";
            (server.query("slipway", idle) == "0").then_some(())
        });
        ended.await.expect("gone");
        proxy.is(Line::Whole);
        let taken = eventually("it is taken", SOON, || async {
            let answer = hook.deliver(rest, &id, body.clone()).await.ok()?;
            (200..300).contains(&answer.status).then_some(())
        });
        taken.await.expect("taken");
        let row = rest.decided(&hook, &id, SOON).await.expect("decided");
        assert_eq!(row["state"], "built", "{row}");
    }
    let rows = server.query("slipway", "SELECT count(*) FROM inbox");
    assert_eq!(rows, "5", "one row for each delivery");
    let builds = server.query("slipway", "SELECT count(*) FROM builds");
    assert_eq!(builds, "5", "one build for each delivery");
}
