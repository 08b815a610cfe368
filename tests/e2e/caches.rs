//! Two hosts, each an agent with a cache daemon: what a stage left on one is the beginning of a stage on
//! the other, and nothing but the two daemons carries it there.

use std::path::PathBuf;
use std::time::Duration;

use slipway_cache_client::LocalCache;
use slipway_tests::eventually;

use crate::place::Place;

const LIMIT: Duration = Duration::from_secs(120);
const PIPELINE: &str = "version: 1\non:\n  push:\ndefaults:\n  image: slipway-busybox:1\nstages:\n  make:\n    labels: {host: a}\n    commands:\n      - head -c 3000000 /dev/urandom > large\n      - mkdir deep && echo made-on-a > deep/out\n      - sha256sum large > sum\n  use:\n    needs: [make]\n    labels: {host: b}\n    commands:\n      - test \"$(cat deep/out)\" = made-on-a\n      - sha256sum -c sum\n";

/// A daemon that joins with a token of its own role, and an agent of this label beside it.
pub(crate) async fn host(place: &mut Place, name: &str) -> LocalCache {
    let socket: PathBuf = place.start_cache_of(name).await;
    let cache = LocalCache::new(&socket).expect("a path");
    let meets = eventually("the daemon answers others", LIMIT, || async {
        cache.holdings().await.ok()?.daemon
    });
    let daemon = meets.await.expect("joined");
    assert!(!daemon.id.is_empty() && !daemon.address.is_empty());
    place.start_agent_beside(name, &socket).await;
    cache
}

#[tokio::test]
async fn a_stage_begins_with_what_another_host_made() {
    let mut place = Place::sqlite().await;
    place.start_dispatcher().await;
    let a = host(&mut place, "a").await;
    let b = host(&mut place, "b").await;
    let (hook, body) = place.pushed(PIPELINE).await;
    let answer = hook
        .deliver(&place.rest, "push-1", body)
        .await
        .expect("sent");
    assert!((200..300).contains(&answer.status));
    let decided = place.rest.decided(&hook, "push-1", LIMIT).await;
    let decided = decided.expect("decided");
    let build = decided["build_id"].as_str().expect("a build");
    let ended = place.rest.build_ended(build, LIMIT).await.expect("ended");
    assert_eq!(ended["status"], "passed", "{ended}");
    let moved = ended["cache"]["moved_bytes"].as_u64();
    assert!(moved.is_some_and(|moved| moved > 3_000_000), "{ended}");
    let (made, used) = (a.stats().await.expect("a"), b.stats().await.expect("b"));
    assert!(used.fetched_bytes > 3_000_000, "{used:?}");
    assert!(made.served_bytes >= used.fetched_bytes, "{made:?}");
    assert_eq!((used.faults, used.damaged), (0, 0), "{used:?}");
}
