//! The loop over a real store and a fake provider, on a clock that is moved by hand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use slipway_core::access::PeerRole;
use slipway_core::fleet::PoolSettings;
use slipway_core::time::Timestamp;
use slipway_daemon::{Clock, Health, Rng, Shutdown};
use slipway_objects::Folder;
use slipway_store::{Db, MachineRow};
use tokio::sync::mpsc;

use super::{Answer, Scaling};
use crate::config::{Config, DEFAULTS};
use crate::fleet::fake::FakeProvider;
use crate::identity;
use crate::loops::scheduling;
use crate::seal::Seal;
use crate::source::FakeSource;
use crate::state::{App, Parts};

/// A call to the fake is answered at once; the machine it is executed on may be busy.
const SOON: Duration = Duration::from_secs(10);

struct World {
    app: Arc<App>,
    clock: Clock,
    fake: FakeProvider,
    scaling: Scaling,
    answers: mpsc::Receiver<(String, Answer)>,
    shutdown: Shutdown,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config: Config =
            slipway_daemon::config::load(DEFAULTS, None, "_DEFAULTS_ONLY_").unwrap();
        config.data_dir = dir.path().to_owned();
        let clock = Clock::manual(Timestamp::from_millis(1_795_571_220_000));
        let rng = Rng::seeded(7);
        let sqlite = slipway_store::Settings::Sqlite(dir.path().join("slipway.db"));
        let db = Db::open(&sqlite).await.unwrap();
        let seal = Seal::open_or_create(&dir.path().join("key"), &rng).unwrap();
        let authority = identity::authority(&db, &seal, &clock).await.unwrap();
        let role = PeerRole::Dispatcher;
        let shutdown = Shutdown::new();
        let own = identity::at_hand(&authority, role, &clock, &rng, &shutdown).unwrap();
        let parts = Parts {
            settings: config.settings().unwrap(),
            authority,
            db,
            objects: Arc::new(Folder::open(dir.path().join("objects")).await.unwrap()),
            source: Arc::new(FakeSource::new()),
            seal,
            clock: clock.clone(),
            rng,
            health: Health::new(),
        };
        let (app, inboxes) = App::new(parts, own).unwrap();
        let scheduler = scheduling::run(Arc::clone(&app), inboxes.nudges, shutdown.clone());
        shutdown.spawn("scheduling", scheduler);
        let fake = FakeProvider::default();
        let given = fake.clone();
        let make: super::Maker = Box::new(move |_, _| Ok(Arc::new(given.clone())));
        let (scaling, answers) = Scaling::new(Arc::clone(&app), make, shutdown.clone());
        Self {
            app,
            clock,
            fake,
            scaling,
            answers,
            shutdown,
            _dir: dir,
        }
    }

    async fn set(&self, min: u32) {
        let settings: PoolSettings = serde_json::from_value(serde_json::json!({
            "provider": {"kind": "process"}, "min": min, "max": 5,
        }))
        .unwrap();
        let text = serde_json::json!(settings).to_string();
        let now = self.clock.now();
        self.app
            .db
            .put_pool("linux", &text, None, now)
            .await
            .unwrap();
    }

    /// One round, and the answers of `calls` calls that it made.
    async fn round(&mut self, calls: usize) {
        self.scaling.round(Vec::new()).await.unwrap();
        for _ in 0..calls {
            let answer = tokio::time::timeout(SOON, self.answers.recv()).await;
            let answer = answer.expect("a call was made").unwrap();
            let (pool, answer) = answer;
            self.scaling.hear(&pool, answer).await.unwrap();
        }
    }

    async fn machines(&self) -> Vec<MachineRow> {
        self.app.db.machines().await.unwrap()
    }

    fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

fn states(rows: &[MachineRow]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row.state.as_str()).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn machines_are_written_down_before_they_are_asked_for_and_asked_for_until_they_come() {
    let mut world = World::new().await;
    world.set(2).await;
    world
        .fake
        .with(|m| m.failing = Some("no capacity in this zone".to_owned()));
    // Two starts and a listing, all of them refused: one failure.
    world.round(3).await;
    let rows = world.machines().await;
    assert_eq!(states(&rows), BTreeMap::from([("starting", 2)]));
    assert!(
        rows.iter()
            .all(|r| r.error.as_deref() == Some("no capacity in this zone"))
    );
    world.round(0).await;
    let reports = world.app.fleet.reports.borrow().clone();
    let words = reports["linux"].sentences().join("\n");
    assert!(
        words.contains("pool_degraded(provider)") && words.contains("zone"),
        "{words}"
    );
    world.fake.with(|m| m.failing = None);
    world.pass(4);
    world.round(0).await;
    assert_eq!(world.fake.with(|m| m.starts), 0, "it is left alone for 5 s");
    world.pass(2);
    world.round(2).await;
    let again = world.machines().await;
    assert!(
        again
            .iter()
            .all(|r| r.machine.is_some() && r.error.is_none()),
        "{again:?}"
    );
    let ids = |rows: &[MachineRow]| rows.iter().map(|r| r.agent_id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&again), ids(&rows), "the same machines");
    world.round(0).await;
    assert_eq!(world.fake.with(|m| m.starts), 2);
    // The listing that failed is made again.
    world.pass(61);
    world.round(1).await;
    world.round(0).await;
    assert!(world.app.fleet.reports.borrow()["linux"].degraded.is_none());
    world.shutdown.begin();
}

#[tokio::test]
async fn an_agent_that_does_not_come_is_given_up_at_its_deadline_and_replaced() {
    let mut world = World::new().await;
    world.set(1).await;
    world.round(2).await;
    let first = world.machines().await[0].agent_id.clone();
    world.pass(599);
    // A listing is due.
    world.round(1).await;
    assert_eq!(world.machines().await[0].agent_id, first);
    world.pass(2);
    // It is stopped, and another one is started: beside the failure it waits.
    world.round(2).await;
    world.pass(6);
    world.round(0).await;
    let rows = world.machines().await;
    assert!(rows.iter().all(|r| r.agent_id != first), "{rows:?}");
    assert_eq!(states(&rows), BTreeMap::from([("starting", 1)]));
    let agent = first.parse().unwrap();
    assert!(
        world.fake.with(|m| !m.machines.contains_key(&agent)),
        "it was stopped"
    );
    world.shutdown.begin();
}

#[tokio::test]
async fn an_orphan_is_stopped_at_the_second_complete_listing_and_a_missing_machine_replaced() {
    let mut world = World::new().await;
    world.set(1).await;
    world.round(2).await;
    let mine: slipway_core::id::AgentId = world.machines().await[0].agent_id.parse().unwrap();
    let stranger = crate::fleet::contract::order(&world.app.settings.fleet, 9);
    let there = |world: &World| {
        world
            .fake
            .with(|m| m.machines.contains_key(&stranger.agent))
    };
    let order = stranger.clone();
    world
        .fake
        .with(|m| m.machines.insert(order.agent.clone(), order));
    for (partial, failing, calls, left) in [
        (false, None, 1, true),
        (true, None, 1, true),
        (false, Some("away".to_owned()), 1, true),
        (false, None, 2, false),
    ] {
        world.pass(61);
        world
            .fake
            .with(|m| (m.partial, m.failing) = (partial, failing));
        world.round(calls).await;
        assert_eq!(there(&world), left);
        assert!(
            world.fake.with(|m| m.machines.contains_key(&mine)),
            "ours stays"
        );
    }
    world.fake.with(|m| m.machines.clear());
    for _ in 0..2 {
        world.pass(61);
        world.round(1).await;
    }
    world.pass(6);
    // What is missing is stopped all the same, and another one is started.
    world.round(2).await;
    let rows = world.machines().await;
    assert_eq!(states(&rows), BTreeMap::from([("starting", 1)]));
    assert_ne!(rows[0].agent_id, String::from(mine));
    world.shutdown.begin();
}

#[tokio::test]
async fn a_removed_pool_is_emptied_and_forgotten() {
    let mut world = World::new().await;
    world.set(2).await;
    world.round(3).await;
    let now = world.clock.now();
    world.app.db.remove_pool("linux", now).await.unwrap();
    // Booting machines may get work at any moment: they go at their deadline, or once idle.
    world.pass(601);
    world.round(3).await;
    world.round(0).await;
    assert_eq!(world.machines().await, []);
    assert!(world.app.db.pools().await.unwrap().is_empty());
    world.shutdown.begin();
}
