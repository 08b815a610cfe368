//! The power goes: what the kernel had not written to the disk is gone.
//!
//! The disk is an ext4 in a file. A copy of that file is what a machine would find after the cut: pages
//! that nobody synced are in the kernel's memory and not in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use slipway_daemon::{Clock, Rng};
use slipway_store::{Db, Settings, conformance};

use crate::ZERO;
use crate::place::Place;

/// A small file system of its own.
struct Disk {
    folder: tempfile::TempDir,
}

/// The same disk after a cut.
struct AfterCut<'a>(&'a Disk);

impl Disk {
    /// `None` where nothing can be mounted.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().ok()?;
        let disk = Self { folder };
        std::fs::create_dir_all(disk.at("now")).ok()?;
        std::fs::create_dir_all(disk.at("later")).ok()?;
        let image = std::fs::File::create(disk.at("disk.img")).ok()?;
        image.set_len(64 << 20).ok()?;
        run(
            "mkfs.ext4",
            &["-q".as_ref(), "-F".as_ref(), &disk.at("disk.img")],
        )
        .then_some(())?;
        mount(&disk.at("disk.img"), &disk.at("now")).then_some(disk)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Everything so far is on the disk.
    fn sync(&self) {
        assert!(run("sync", &["-f".as_ref(), &self.at("now")]), "synced");
    }

    fn cut(&self) -> AfterCut<'_> {
        std::fs::copy(self.at("disk.img"), self.at("cut.img")).expect("copied");
        assert!(mount(&self.at("cut.img"), &self.at("later")), "mounted");
        AfterCut(self)
    }
}

impl AfterCut<'_> {
    async fn open(&self, name: &str) -> Db {
        let path = self.0.at("later").join(name);
        Db::open(&Settings::Sqlite(path)).await.expect("open")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _unmounted = run("umount", &["-l".as_ref(), &self.at("now")]);
    }
}

impl Drop for AfterCut<'_> {
    fn drop(&mut self) {
        let _unmounted = run("umount", &[&self.0.at("later")]);
    }
}

fn run(program: &str, args: &[&Path]) -> bool {
    Command::new(program)
        .args(args)
        .status()
        .is_ok_and(|status| status.success())
}

fn mount(image: &Path, at: &Path) -> bool {
    run("mount", &["-o".as_ref(), "loop".as_ref(), image, at])
}

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
