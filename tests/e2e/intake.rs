//! Nothing that was acknowledged is lost, and nothing is built twice.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use slipway_tests::cluster::{FAKE_URL, ONE_STAGE};
use slipway_tests::{Cluster, eventually};

use crate::ZERO;
use crate::place::Place;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn intake_dedupe_concurrent() {
    let cluster = Cluster::start().await;
    let repo = cluster.rest.add_repository(FAKE_URL).await.unwrap();
    let hook = cluster.rest.add_hook(&repo, "github").await.unwrap();
    let sha = cluster.commit(1, ONE_STAGE);
    let body = hook.push_body(ZERO, &sha);
    let all = (0..50).map(|_| hook.deliver(&cluster.rest, "same", body.clone()));
    let answers = futures::future::join_all(all).await;
    let mut ids = BTreeSet::new();
    for answer in answers {
        let answer = answer.unwrap();
        assert!((200..300).contains(&answer.status), "{}", answer.text);
        ids.insert(answer.json["delivery"].to_string());
    }
    assert_eq!(ids.len(), 1, "everybody hears the first one's id");
    let row = cluster.rest.decided(&hook, "same", SOON).await.unwrap();
    assert_eq!(row["state"], "built");
    let again = hook.deliver(&cluster.rest, "same", body).await.unwrap();
    assert_eq!(again.json["build_id"], row["build_id"]);
    let all = cluster.rest.get("/builds").await.unwrap();
    assert_eq!(all["items"].as_array().map(Vec::len), Some(1));
    cluster.stop().await;
}

/// A 2xx means a committed row: the dispatcher is killed again and again while deliveries come in.
#[tokio::test]
async fn intake_ack_after_commit() {
    let mut place = Place::sqlite().await;
    place.start_dispatcher().await;
    let (hook, body) = place.pushed(ONE_STAGE).await;
    let mut acknowledged = BTreeSet::new();
    let mut refused = BTreeSet::new();
    for round in 0..4 {
        let mut flight = futures::stream::FuturesUnordered::new();
        for n in 0..40 {
            let id = format!("r{round}-{n}");
            let (hook, rest, body) = (hook.clone(), place.rest.clone(), body.clone());
            flight.push(async move {
                let answer = hook.deliver(&rest, &id, body).await;
                (id, answer.is_ok_and(|a| (200..300).contains(&a.status)))
            });
        }
        let mut answered = 0;
        while let Some((id, good)) = futures::StreamExt::next(&mut flight).await {
            answered += 1;
            // In the middle of the others.
            if answered == 5 + round * 7 {
                place.kill_dispatcher();
            }
            if good {
                acknowledged.insert(id)
            } else {
                refused.insert(id)
            };
        }
        place.start_dispatcher().await;
    }
    assert!(
        !acknowledged.is_empty() && !refused.is_empty(),
        "{} refused",
        refused.len()
    );
    for id in &refused {
        let again = hook.deliver(&place.rest, id, body.clone()).await.unwrap();
        assert!((200..300).contains(&again.status), "{}", again.text);
    }
    let id = hook.id.parse().unwrap();
    let rows = place
        .stop_and_open(async |db| db.deliveries(&id, 1_000).await.unwrap())
        .await;
    let stored: BTreeSet<String> = rows.into_iter().map(|row| row.delivery_id).collect();
    let all: BTreeSet<String> = acknowledged.union(&refused).cloned().collect();
    assert_eq!(stored, all, "lost, or invented");
}

/// The disk is full: 503 with a time to come back, nothing half-written, and no restart needed.
#[tokio::test]
async fn intake_disk_full_503() {
    let Some(disk) = SmallDisk::mount() else {
        slipway_tests::require::skip("a small tmpfs cannot be mounted");
        return;
    };
    let mut place = Place::sqlite_below(disk.0.path()).await;
    place.start_dispatcher().await;
    let repo = place
        .rest
        .add_repository("https://git.example/demo/shop.git")
        .await
        .unwrap();
    let hook = place.rest.add_hook(&repo, "github").await.unwrap();
    let filler = disk.0.path().join("filler");
    let full = std::fs::File::create(&filler).and_then(|mut file| {
        let block = [0_u8; 65_536];
        loop {
            std::io::Write::write_all(&mut file, &block)?;
        }
        #[expect(
            unreachable_code,
            reason = "the type of a closure that ends by an error"
        )]
        Ok(())
    });
    assert!(full.is_err(), "the disk is full now");
    let body = vec![b' '; 512 * 1024];
    let answer = eventually("the store notices", SOON, || async {
        let answer = hook.deliver(&place.rest, "full", body.clone()).await.ok()?;
        (answer.status == 503).then_some(answer)
    })
    .await
    .unwrap();
    assert!(
        answer.headers.contains_key("retry-after"),
        "{:?}",
        answer.headers
    );
    let (status, words) = health(&place).await.unwrap();
    assert!(status == 503 && words.contains("intake: "), "{words}");
    std::fs::remove_file(&filler).unwrap();
    let answer = eventually("it recovers by itself", SOON, || async {
        let answer = hook
            .deliver(&place.rest, "after", body.clone())
            .await
            .ok()?;
        (answer.status == 202).then_some(answer)
    })
    .await
    .unwrap();
    assert!(answer.json["delivery"].is_string());
    let again = hook.deliver(&place.rest, "full", body).await.unwrap();
    assert_eq!(
        again.status, 202,
        "nothing of it was left behind: {}",
        again.text
    );
    eventually("health has heard of it", SOON, || async {
        (health(&place).await?.0 == 200).then_some(())
    })
    .await
    .unwrap();
    drop(place);
    drop(disk);
}

/// Whether the dispatcher says that it may take work, and why not.
async fn health(place: &Place) -> Option<(u16, String)> {
    let asked = reqwest::get(format!("http://{}/readyz", place.health)).await;
    let answer = asked.ok()?;
    Some((answer.status().as_u16(), answer.text().await.ok()?))
}

/// A tmpfs of a few megabytes.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().ok()?;
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=12m", "tmpfs"])
            .arg(dir.path());
        mount
            .status()
            .is_ok_and(|s| s.success())
            .then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let path: &Path = self.0.path();
        let _unmounted = Command::new("umount").arg("-l").arg(path).status();
    }
}
