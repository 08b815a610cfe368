//! Deliveries and the builds that they lead to.

use slipway_core::id::{DeliveryId, RepoId};

use super::sample::{at, build_id, hook_id, new_build, repo_id, repository, stage, stage_id, ulid};
use crate::{Created, Db, NewDelivery, Recorded};

pub(super) fn delivery(n: u32, host_id: &str, body: &str) -> NewDelivery {
    NewDelivery {
        id: ulid(n).parse().expect("an id"),
        hook_id: hook_id(),
        delivery_id: host_id.to_owned(),
        event: "push".to_owned(),
        body_digest: format!("digest of {body}"),
        headers: "{}".to_owned(),
        body: body.as_bytes().to_vec(),
        received: at(i64::from(n)),
    }
}

/// The first one stays; repeats and collisions are told apart.
pub async fn a_delivery_is_recorded_once(db: Db) {
    repository(&db).await;
    let record = |new| db.record_delivery(new);
    assert!(matches!(
        record(delivery(11, "a", "x")).await,
        Ok(Recorded::New)
    ));
    let again = record(delivery(12, "a", "x")).await.expect("stored");
    assert!(matches!(again, Recorded::Duplicate(first) if first.id == ulid(11)));
    let other = record(delivery(13, "a", "y")).await.expect("stored");
    assert!(matches!(other, Recorded::Collision(first) if first.body == b"x"));
    let rows = db.deliveries(&hook_id(), 10).await.expect("readable");
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].body, b"x");
}

/// Fifty at the same moment.
pub async fn concurrent_repeats_are_one_row(db: Db) {
    repository(&db).await;
    let all = (0..50).map(|n| db.record_delivery(delivery(200 + n, "same", "x")));
    let outcomes = futures::future::join_all(all).await;
    let new = outcomes
        .iter()
        .filter(|o| matches!(o, Ok(Recorded::New)))
        .count();
    let repeated = outcomes
        .iter()
        .filter(|o| matches!(o, Ok(Recorded::Duplicate(_))))
        .count();
    assert_eq!((new, repeated), (1, 49));
}

/// A decision is final, unless the row was put aside and is opened again.
pub async fn a_decision_is_final_until_reopened(db: Db) {
    repository(&db).await;
    let id: DeliveryId = ulid(11).parse().expect("an id");
    db.record_delivery(delivery(11, "a", "x"))
        .await
        .expect("stored");
    assert_eq!(db.pending_deliveries(10).await.expect("readable").len(), 1);
    let undecided = db.undecided_deliveries(&repo_id()).await;
    assert_eq!(undecided.expect("readable"), 1);
    let others: RepoId = ulid(99).parse().expect("an id");
    let undecided = db.undecided_deliveries(&others).await;
    assert_eq!(undecided.expect("readable"), 0, "of that repository only");
    assert!(
        !db.reopen_delivery(&id).await.expect("stored"),
        "it is pending already"
    );
    db.decide_delivery(&id, "quarantined", "parse_error", None, at(2))
        .await
        .expect("stored");
    let row = db.delivery(&id).await.expect("readable").expect("there");
    assert_eq!(
        (row.state.as_str(), row.decision.as_deref()),
        ("quarantined", Some("parse_error"))
    );
    let undecided = db.undecided_deliveries(&repo_id()).await;
    assert_eq!(undecided.expect("readable"), 0);
    db.decide_delivery(&id, "ignored", "too late", None, at(3))
        .await
        .expect("stored");
    let row = db.delivery(&id).await.expect("readable").expect("there");
    assert_eq!(row.state, "quarantined", "the first decision stands");
    assert!(db.reopen_delivery(&id).await.expect("stored"));
    assert_eq!(db.pending_deliveries(10).await.expect("readable").len(), 1);
    db.count_delivery_try(&id).await.expect("stored");
    let row = db.delivery(&id).await.expect("readable").expect("there");
    assert_eq!(row.tries, 1);
}

/// The build and the decision of its delivery are one transaction; an event is built once.
pub async fn one_event_is_one_build(db: Db) {
    repository(&db).await;
    for (n, host) in [(11, "a"), (12, "b")] {
        db.record_delivery(delivery(n, host, "x"))
            .await
            .expect("stored");
    }
    let mut first = new_build(1, vec![stage(1, 1, &[])]);
    first.delivery = ulid(11).parse().ok();
    let mut second = new_build(2, vec![stage(2, 1, &[])]);
    second.delivery = ulid(12).parse().ok();
    second.event_key.clone_from(&first.event_key);
    let created = db.create_build(first).await.expect("stored");
    assert!(matches!(created, Created::New { number: 1, .. }));
    let attached = db.create_build(second).await.expect("stored");
    assert_eq!(attached, Created::Existing(build_id(1).to_string()));
    for (n, state) in [(11, "built"), (12, "attached")] {
        let id = ulid(n).parse().expect("an id");
        let row = db.delivery(&id).await.expect("readable").expect("there");
        assert_eq!(
            (row.state.as_str(), row.build_id),
            (state, Some(build_id(1).to_string()))
        );
    }
    assert!(db.stage(&stage_id(2, 1)).await.expect("readable").is_none());
}

/// A newer build of a lane replaces older ones, and says whom to tell.
pub async fn a_newer_build_supersedes_its_lane(db: Db) {
    repository(&db).await;
    let agent = super::sample::agent(&db, 1).await;
    let mut old = new_build(1, vec![stage(1, 1, &[]), stage(1, 2, &[1])]);
    old.lane = Some("main".to_owned());
    db.create_build(old).await.expect("stored");
    assert!(super::sample::assign(&db, &stage_id(1, 1), 0, &agent).await);
    let mut new = new_build(2, vec![stage(2, 1, &[])]);
    new.lane = Some("main".to_owned());
    let created = db.create_build(new).await.expect("stored");
    let Created::New {
        number: 2,
        superseded,
    } = created
    else {
        panic!("it is new")
    };
    let held = (stage_id(1, 1).to_string(), 1, Some(agent.to_string()));
    assert_eq!(superseded, [held]);
    let row = db
        .build(&build_id(1))
        .await
        .expect("readable")
        .expect("there");
    assert_eq!(row.superseded_by, Some(build_id(2).to_string()));
    let waiting = super::sample::state_of(&db, &stage_id(1, 2)).await;
    assert!(
        matches!(waiting.as_str(), "superseded" | "cancelled" | "skipped"),
        "{waiting}"
    );
}

/// Heads, and builds that a comparison of refs made.
pub async fn heads_are_remembered_and_forgotten(db: Db) {
    repository(&db).await;
    let repo = repo_id();
    let put = |sha: Option<&'static str>, n| db.put_ref_head(&repo, "refs/heads/main", sha, at(n));
    put(Some("a"), 1).await.expect("stored");
    put(Some("b"), 2).await.expect("stored");
    let heads = db.ref_heads(&repo).await.expect("readable");
    assert_eq!(heads, [("refs/heads/main".to_owned(), "b".to_owned())]);
    put(None, 3).await.expect("stored");
    assert!(db.ref_heads(&repo).await.expect("readable").is_empty());
    db.set_reconciled(&repo, at(4)).await.expect("stored");
    let row = db
        .repository(&repo)
        .await
        .expect("readable")
        .expect("there");
    assert_eq!(row.reconciled_ms, Some(at(4).as_millis()));
    let mut found = new_build(1, vec![stage(1, 1, &[])]);
    found.event = "reconciled".to_owned();
    db.create_build(found).await.expect("stored");
    let sha = format!("{:040x}", 1);
    let unclaimed = db
        .unclaimed_reconciled_build(&repo, "refs/heads/main", &sha)
        .await;
    assert_eq!(unclaimed.expect("readable"), Some(build_id(1).to_string()));
}
