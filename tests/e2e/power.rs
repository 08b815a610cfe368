//! The power goes: what the kernel had not written to the disk is gone.

use std::time::Duration;

use slipway_daemon::{Clock, Rng};
use slipway_store::{Db, Settings, conformance};

use crate::ZERO;
use crate::disk::Disk;
use crate::place::Place;

/// Whether a row that was answered for outlives a cut right after the answer.
async fn outlives(disk: &Disk, synchronous: &str, round: u32) -> bool {
    let name = format!("{synchronous}-{round}.db");
    let settings = Settings::Sqlite(disk.at("now").join(&name));
    let db = Db::open(&settings).await.expect("open");
    let pragma = format!("PRAGMA synchronous = {synchronous}");
    conformance::tamper(&db, &pragma).await.expect("set");
    disk.sync();
    let (rng, now) = (Rng::system(), Clock::system().now());
    let until = now.after(Duration::from_secs(60));
    db.insert_token(&rng.id(now), "sam", "hash", "[]", now, until)
        .await
        .expect("answered");
    let cut = disk.cut();
    let later = cut.open(&name).await;
    let found = later.tokens().await.expect("readable").len();
    later.close().await;
    db.close().await;
    found == 1
}

/// I-02: a delivery that got its 2xx is there after a power cut; and this test can see one that is not.
#[tokio::test]
async fn intake_power_cut_full_vs_normal() {
    let Some(disk) = Disk::mount() else {
        slipway_tests::require::skip("an ext4 in a file cannot be mounted");
        return;
    };
    let mut place = Place::sqlite_below(&disk.at("now")).await;
    place.start_dispatcher().await;
    let address = "https://git.example/demo/shop.git";
    let repo = place.rest.add_repository(address).await.expect("added");
    let hook = place.rest.add_hook(&repo, "github").await.expect("made");
    let body = hook.push_body(ZERO, &"1".repeat(40));
    disk.sync();
    let answer = hook.deliver(&place.rest, "cut", body).await;
    assert_eq!(answer.expect("answered").status, 202);
    let cut = disk.cut();
    let later = cut.open("dispatcher/slipway.db").await;
    let id = hook.id.parse().expect("an id");
    let rows = later.deliveries(&id, 10).await.expect("readable");
    assert_eq!(rows.len(), 1, "it was acknowledged");
    assert_eq!(rows[0].delivery_id, "cut");
    later.close().await;
    drop(cut);
    drop(place);

    let mut lost = 0;
    for round in 0..3 {
        assert!(outlives(&disk, "FULL", round).await);
        // The kernel may write a page by itself in the meantime, but not each time.
        lost += u32::from(!outlives(&disk, "NORMAL", round).await);
    }
    assert!(lost > 0, "without the sync an answered row is lost");
}
