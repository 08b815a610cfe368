//! The disk that a stage may fill. Most file systems under an engine know no quota per folder, so it is
//! looked at every few seconds, and what has more is ended: a stage may be above its limit for as long.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use slipway_core::pipeline::Sandbox as Profile;
use slipway_proto::convert::AttemptKey;

use super::Shared;
use crate::sandbox::profile::confine;

/// Between two looks at a small workspace.
const EVERY: Duration = Duration::from_secs(3);
/// A large one is looked at no more often than takes this part of the time.
const SHARE: u32 = 20;
/// Bytes of a block in a file's metadata (POSIX).
const BLOCK: u64 = 512;

/// What an attempt may have on the disk.
pub(super) fn limit(shared: &Shared, profile: Profile) -> u64 {
    let own = confine(profile).disk_bytes;
    shared.disk_limit.map_or(own, |most| most.min(own))
}

/// Waits until the attempt has more on the disk than that; how much.
pub(super) async fn exceeded(shared: &Shared, key: &AttemptKey, limit: u64) -> u64 {
    let mut wait = EVERY;
    loop {
        tokio::time::sleep(wait).await;
        let began = shared.clock.monotonic();
        let dir = shared.workspace(key);
        let folder = tokio::task::spawn_blocking(move || folder_bytes(dir, limit)).await;
        // A look that fails is no reason to end anything: the next one comes soon.
        let layer = shared.sandbox.written(key).await.unwrap_or(0);
        let total = folder.unwrap_or(0).saturating_add(layer);
        if total > limit {
            return total;
        }
        wait = EVERY.max((shared.clock.monotonic() - began) * SHARE);
    }
}

/// Bytes that a folder takes on the disk; stops counting above `enough`. Follows no link, and what
/// cannot be read counts nothing.
fn folder_bytes(dir: PathBuf, enough: u64) -> u64 {
    let mut total: u64 = 0;
    let mut folders = vec![dir];
    while let Some(folder) = folders.pop() {
        for entry in entries(&folder) {
            let Ok(meta) = entry.metadata() else {
                continue;
            };
            total = total.saturating_add(meta.blocks().saturating_mul(BLOCK));
            if total > enough {
                return total;
            }
            if meta.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    total
}

fn entries(folder: &Path) -> impl Iterator<Item = std::fs::DirEntry> {
    std::fs::read_dir(folder).into_iter().flatten().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_the_disk_counts_and_neither_holes_nor_links_do() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("big"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        let hole = std::fs::File::create(dir.path().join("hole")).unwrap();
        hole.set_len(1 << 30).unwrap();
        let deep = dir.path().join("a/b/c");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("file"), vec![1; 300_000]).unwrap();
        let of = |enough| folder_bytes(dir.path().to_owned(), enough);
        let all = of(u64::MAX);
        assert!((300_000..600_000).contains(&all), "{all}");
        assert!(of(1_000) > 1_000, "it stops above what is enough");
        assert_eq!(folder_bytes("/no/such/folder".into(), 1), 0);
    }
}
