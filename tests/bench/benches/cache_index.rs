//! How long a cache daemon needs until it knows 100,000 blobs again: with its index lost (`rebuild`), and with the
//! index that it had (`warm`). Beside it, in the same run: the same files listed and looked at by nobody's code.
#![expect(clippy::disallowed_methods, reason = "a bench: it measures real time")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slipway_bench::figure::{Figure, median};
use slipway_cache::Store;
use slipway_cache::blobs::{Disk, Durable};
use slipway_cache::index::SledIndex;
use slipway_daemon::Clock;

const BLOBS: u64 = 100_000;
/// Blobs of one batch.
const BATCH: u64 = 1_000;
const ROUNDS: usize = 5;

fn open(folder: &Path) -> anyhow::Result<Store> {
    let index = SledIndex::new(&folder.join("index.sled"));
    let disk = Disk::open(folder, Arc::new(index), 8 << 30)?;
    Ok(Store::open(disk, Clock::system()))
}

/// Opens the store and waits until it knows all; closes it in order.
fn known_after(folder: &Path) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let store = open(folder)?;
    store.list();
    let took = began.elapsed();
    let known = store.stats().blobs;
    anyhow::ensure!(known == BLOBS, "{known} of {BLOBS} blobs are known");
    store.close();
    Ok(took)
}

/// Every file listed and looked at.
fn listed(folder: &Path) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut bytes = 0;
    for shard in std::fs::read_dir(folder.join("objects"))? {
        for file in std::fs::read_dir(shard?.path())? {
            bytes += file?.metadata()?.len();
        }
    }
    anyhow::ensure!(bytes > 0, "nothing was listed");
    Ok(began.elapsed())
}

fn main() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let folder = dir.path().join("cache");
    let index = SledIndex::new(&folder.join("index.sled"));
    let disk = Disk::open(&folder, Arc::new(index), 8 << 30)?;
    for batch in 0..BLOBS / BATCH {
        let mut all = disk.batch();
        for number in 0..BATCH {
            all.add_bytes(format!("blob {batch} {number}").as_bytes())?;
        }
        all.commit(Durable::Later)?;
    }
    drop(disk);
    let (mut rebuilds, mut warm, mut floor) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        std::fs::remove_dir_all(folder.join("index.sled")).or_else(|error| {
            let none = error.kind() == std::io::ErrorKind::NotFound;
            none.then_some(()).ok_or(error)
        })?;
        rebuilds.push(known_after(&folder)?.as_secs_f64());
        warm.push(known_after(&folder)?.as_secs_f64());
        floor.push(listed(&folder)?.as_secs_f64());
    }
    let floor = median(&floor);
    for (figure, value) in [("rebuild", median(&rebuilds)), ("warm", median(&warm))] {
        Figure {
            bench: "cache_index",
            figure,
            value,
            unit: "s",
            against: "listed and looked at",
            against_value: floor,
        }
        .print();
    }
    Ok(())
}
