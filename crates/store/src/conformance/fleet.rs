//! Pools and machines: who wins between a drain and an assignment, and what a machine costs.

use slipway_core::access::PeerRole;
use slipway_core::build::StageState;
use slipway_core::id::AgentId;

use super::sample::{agent_id, assign, at, chain, new_build, repository, result, stage, stage_id};
use crate::{Db, JoinOutcome, NewPeer};

/// A machine of pool `linux` whose agent has said hello.
async fn machine(db: &Db, n: u32) -> AgentId {
    let agent = agent_id(n);
    db.insert_machines("linux", vec![agent.clone()], false, at(0))
        .await
        .expect("stored");
    join(db, n).await;
    db.agent_hello(&agent, "boot", 4, "{}", at(3))
        .await
        .expect("stored");
    agent
}

async fn join(db: &Db, n: u32) -> JoinOutcome {
    let (agent, hash) = (agent_id(n), format!("join-{n}"));
    assert!(
        db.machine_asked(&agent, &hash, at(1))
            .await
            .expect("stored")
    );
    db.insert_join_token(&hash, "{}", 1, at(1_000), at(0))
        .await
        .expect("stored");
    let planned = db.planned_agent(&hash).await.expect("readable");
    assert_eq!(planned.as_ref(), Some(&agent));
    let new = NewPeer {
        id: agent.to_string(),
        name: format!("agent-{n}"),
        created: at(2),
    };
    db.join(&hash, new).await.expect("stored")
}

async fn state(db: &Db, agent: &AgentId) -> String {
    let rows = db.machines().await.expect("readable");
    let row = rows.into_iter().find(|r| r.agent_id == agent.as_str());
    row.map_or_else(|| "gone".to_owned(), |row| row.state)
}

/// `scale_down_race`: drain and assignment in the same instant, many times; never both.
pub async fn scale_down_race(db: Db) {
    scale_down_race_of(db.clone(), db).await;
}

/// The same between a process that assigns and one that drains.
pub async fn scale_down_race_of(db: Db, other: Db) {
    repository(&db).await;
    let mut drained = 0;
    for n in 1..=40 {
        let agent = machine(&db, n).await;
        db.create_build(new_build(n, vec![stage(n, 1, &[])]))
            .await
            .expect("stored");
        let stage = stage_id(n, 1);
        let (assigned, left) = if n % 2 == 0 {
            tokio::join!(
                assign(&db, &stage, 0, &agent),
                other.drain_machine(&agent, at(10))
            )
        } else {
            let (left, assigned) = tokio::join!(
                other.drain_machine(&agent, at(10)),
                assign(&db, &stage, 0, &agent)
            );
            (assigned, left)
        };
        let left = left.expect("stored");
        assert!(assigned ^ left, "exactly one of them holds");
        if left {
            drained += 1;
            assert_eq!(state(&db, &agent).await, "draining");
            assert!(
                !assign(&db, &stage, 0, &agent).await,
                "it takes nothing any more"
            );
        } else {
            assert!(!db.drain_machine(&agent, at(11)).await.expect("stored"));
            let retired = db.retire_machine(&agent, "because", at(11)).await;
            assert!(!retired.expect("stored"), "it is busy");
            assert_eq!(state(&db, &agent).await, "ready");
        }
    }
    assert!(
        drained > 0 && drained < 40,
        "both orders happened: {drained}"
    );
}

/// A drained agent stays so when it says hello again, and its machine goes only when it is empty.
pub async fn a_machine_goes_only_when_its_agent_holds_nothing(db: Db) {
    repository(&db).await;
    let agent = machine(&db, 1).await;
    let stages = vec![stage(1, 1, &[]), stage(1, 2, &[])];
    db.create_build(new_build(1, stages)).await.expect("stored");
    assert!(assign(&db, &stage_id(1, 1), 0, &agent).await);
    let retired = db.retire_machine(&agent, "lost", at(11)).await;
    assert!(!retired.expect("stored"), "it holds a stage");
    let done = result(&stage_id(1, 1), 1, &agent, StageState::Succeeded);
    db.finish_attempt(done).await.expect("stored");
    assert!(db.drain_machine(&agent, at(12)).await.expect("stored"));
    db.agent_hello(&agent, "boot", 4, "{}", at(13))
        .await
        .expect("stored");
    assert!(
        !assign(&db, &stage_id(1, 2), 0, &agent).await,
        "it is on its way out"
    );
    assert!(!db.resume_agent(&agent, at(20)).await.expect("stored"));
    assert!(
        !db.machine_gone(&agent, at(14)).await.expect("stored"),
        "nobody retired it"
    );
    assert!(
        db.retire_machine(&agent, "drained", at(14))
            .await
            .expect("stored")
    );
    assert!(db.machine_gone(&agent, at(15)).await.expect("stored"));
    let good = db.peer_is_good(PeerRole::Agent, agent.as_str()).await;
    assert!(!good.expect("readable"), "its certificate is worth nothing");
    assert_eq!(state(&db, &agent).await, "gone");
    let row = db.agent(&agent).await.expect("readable").expect("there");
    assert_eq!(row.state, "gone");
    let gone = db.machines_gone(at(0)).await.expect("readable");
    assert_eq!((gone.len(), gone[0].ready_ms), (1, Some(at(3).as_millis())));
}

/// A machine that was given up cannot join any more, whatever it does.
pub async fn a_machine_that_was_given_up_cannot_join(db: Db) {
    let agent = agent_id(1);
    db.insert_machines("linux", vec![agent.clone()], false, at(0))
        .await
        .expect("stored");
    assert!(
        db.machine_asked(&agent, "join-1", at(1))
            .await
            .expect("stored")
    );
    db.insert_join_token("join-1", "{}", 1, at(1_000), at(0))
        .await
        .expect("stored");
    assert!(
        db.retire_machine(&agent, "late", at(2))
            .await
            .expect("stored")
    );
    assert_eq!(db.planned_agent("join-1").await.expect("readable"), None);
    let new = NewPeer {
        id: agent_id(9).to_string(),
        name: "late".to_owned(),
        created: at(3),
    };
    let joined = db.join("join-1", new).await.expect("stored");
    assert_eq!(joined, JoinOutcome::Used);
    assert!(
        !db.machine_asked(&agent, "join-2", at(4))
            .await
            .expect("stored")
    );
}

/// A person's drain ends by a person's word.
pub async fn a_drained_agent_is_resumed(db: Db) {
    chain(&db).await;
    let agent = agent_id(1);
    db.set_agent_state(&agent, "draining", None)
        .await
        .expect("stored");
    db.agent_hello(&agent, "another boot", 4, "{}", at(13))
        .await
        .expect("stored");
    assert!(!assign(&db, &stage_id(1, 1), 0, &agent).await);
    assert!(db.resume_agent(&agent, at(20)).await.expect("stored"));
    assert!(
        !db.resume_agent(&agent, at(20)).await.expect("stored"),
        "it is ready"
    );
    assert!(assign(&db, &stage_id(1, 1), 0, &agent).await);
}

/// The time of agents is counted once, on the days that it belongs to.
pub async fn agent_hours_are_counted_by_day(db: Db) {
    const DAY: i64 = 86_400;
    // 1 700 000 000 is 22:13:20 UTC; midnight is 6 400 s later.
    machine(&db, 1).await;
    db.count_machines(at(400), at(0)).await.expect("stored");
    db.count_machines(at(400), at(0)).await.expect("stored");
    let hours = async |when| db.pool_hours(at(when)).await.expect("readable");
    assert_eq!(hours(400).await, [("linux".to_owned(), 400_000)]);
    db.retire_machine(&agent_id(1), "x", at(7_000))
        .await
        .expect("stored");
    db.machine_gone(&agent_id(1), at(7_000))
        .await
        .expect("stored");
    assert_eq!(hours(400).await, [("linux".to_owned(), 6_400_000)]);
    assert_eq!(hours(7_000).await, [("linux".to_owned(), 600_000)]);
    assert_eq!(hours(7_000 + DAY).await, []);
    db.count_machines(at(8_000), at(7_500))
        .await
        .expect("stored");
    assert_eq!(
        db.machines_gone(at(0)).await.expect("readable"),
        [],
        "forgotten"
    );
}

/// A pool is changed as a whole, keeps its key, and is forgotten when it is empty.
pub async fn a_pool_is_kept_until_it_is_empty(db: Db) {
    db.put_pool("linux", "{}", Some(vec![7]), at(0))
        .await
        .expect("stored");
    db.put_pool("linux", r#"{"max":1}"#, None, at(1))
        .await
        .expect("stored");
    let rows = db.pools().await.expect("readable");
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (rows[0].settings.as_str(), &rows[0].signing_key),
        (r#"{"max":1}"#, &Some(vec![7]))
    );
    let agent = machine(&db, 1).await;
    assert!(
        !db.forget_pool("linux").await.expect("stored"),
        "nobody removed it"
    );
    assert!(db.remove_pool("linux", at(2)).await.expect("stored"));
    assert!(!db.remove_pool("linux", at(2)).await.expect("stored"));
    assert!(
        !db.forget_pool("linux").await.expect("stored"),
        "it has a machine"
    );
    db.retire_machine(&agent, "x", at(3)).await.expect("stored");
    db.machine_gone(&agent, at(3)).await.expect("stored");
    assert!(db.forget_pool("linux").await.expect("stored"));
    let name = db.installation("first").await.expect("stored");
    assert_eq!(db.installation("second").await.expect("stored"), name);
}
