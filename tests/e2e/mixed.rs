//! Every acknowledged delivery ends in one decision, whatever happens meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use slipway_tests::cluster::ONE_STAGE;
use slipway_tests::{Hook, Repository, Rest, eventually};

use crate::ZERO;
use crate::place::Place;

/// Deliveries altogether, repeats among them.
const DELIVERIES: u32 = 1_000;
/// Deliveries on their way at once.
const AT_ONCE: usize = 24;
/// After which of them the dispatcher is killed.
const KILLED_AFTER: [u32; 3] = [200, 520, 810];

/// What is sent under number `n`, and how it must end.
fn delivery(hook: &Hook, commits: &[String], n: u32) -> (String, Vec<u8>, &'static str) {
    let sha = &commits[n as usize % commits.len()];
    match n % 10 {
        // A repeat of an earlier one of the same kind.
        0 if n >= 10 => delivery(hook, commits, n - 9),
        1 => (format!("push-{n}"), hook.push_body(ZERO, sha), "built"),
        2 => (
            format!("cut-{n}"),
            hook.push_body(ZERO, sha)[..40].to_vec(),
            "quarantined",
        ),
        3 => (
            format!("gone-{n}"),
            hook.push_body(ZERO, &"e".repeat(40)),
            "quarantined",
        ),
        _ => (format!("deleted-{n}"), hook.push_body(sha, ZERO), "ignored"),
    }
}

/// As a good sender does: again until it is acknowledged.
async fn insist(rest: &Rest, hook: &Hook, id: &str, body: &[u8]) {
    let what = format!("{id} is acknowledged");
    eventually(&what, Duration::from_secs(90), || async {
        let answer = hook.deliver(rest, id, body.to_vec()).await.ok()?;
        (200..300).contains(&answer.status).then_some(())
    })
    .await
    .expect("acknowledged");
}

#[tokio::test]
async fn total_queue_checker_mixed() {
    let mut place = Place::sqlite().await;
    place.start_dispatcher().await;
    let repository = Repository::create(place.dir(), "shop");
    let mut commits = Vec::new();
    for n in 0..8 {
        repository.write(".slipway.yml", ONE_STAGE);
        commits.push(repository.push(&format!("commit {n}")));
    }
    let repo = place.rest.add_repository(&repository.url).await.unwrap();
    let hook = place.rest.add_hook(&repo, "github").await.unwrap();
    let mut expected = BTreeMap::new();
    let mut flight = futures::stream::FuturesUnordered::new();
    for n in 0..DELIVERIES {
        if KILLED_AFTER.contains(&n) {
            place.kill_dispatcher();
            place.start_dispatcher().await;
        }
        let (id, body, end) = delivery(&hook, &commits, n);
        expected.insert(id.clone(), end);
        let (rest, hook) = (place.rest.clone(), hook.clone());
        flight.push(async move { insist(&rest, &hook, &id, &body).await });
        if flight.len() >= AT_ONCE {
            futures::StreamExt::next(&mut flight).await;
        }
    }
    while futures::StreamExt::next(&mut flight).await.is_some() {}
    drop(flight);
    let id = hook.id.parse().unwrap();
    settled(&place).await;
    let rows = place
        .stop_and_open(async |db| db.deliveries(&id, 10_000).await.unwrap())
        .await;
    let found: BTreeMap<String, String> = rows
        .iter()
        .map(|row| (row.delivery_id.clone(), row.state.clone()))
        .collect();
    let lost: Vec<_> = expected
        .keys()
        .filter(|id| !found.contains_key(*id))
        .collect();
    let invented: Vec<_> = found
        .keys()
        .filter(|id| !expected.contains_key(*id))
        .collect();
    assert!(
        lost.is_empty() && invented.is_empty(),
        "lost {lost:?}, invented {invented:?}"
    );
    assert_eq!(rows.len(), expected.len(), "none twice");
    for (id, end) in &expected {
        assert_eq!(found[id], *end, "{id}");
    }
    // One build for each push, none for anything else.
    let mut builds: Vec<_> = rows.iter().filter_map(|row| row.build_id.clone()).collect();
    builds.sort();
    let all = builds.len();
    builds.dedup();
    assert_eq!(builds.len(), all, "two deliveries have one build");
    assert_eq!(
        all,
        expected.values().filter(|end| **end == "built").count()
    );
}

/// Waits until nothing is pending, over all rows: the API lists the newest alone.
async fn settled(place: &Place) {
    let db = place.db().await;
    eventually(
        "everything is decided",
        Duration::from_secs(120),
        || async {
            db.pending_deliveries(1)
                .await
                .ok()?
                .is_empty()
                .then_some(())
        },
    )
    .await
    .expect("decided");
    db.close().await;
}
