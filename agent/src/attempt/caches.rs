//! `cache:` of a stage: its folders before the container is made, and what it left in them after the
//! container is dead.
//!
//! Nothing here ends a stage: what goes wrong is a line in its log. Whose entries are read and written is in
//! the assignment, and never in the stage's words.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use slipway_cache_client::LocalCache;
use slipway_core::cache::keyed;
use slipway_core::pipeline::CacheSpec;
use slipway_proto::v1;

use super::{Attempt, Shared, prepare};
use crate::log_stream::LogWriter;

/// Entries of one stage: each is a question to the daemon and a folder beside the workspace.
const CACHES_MAX: usize = 16;
/// Characters of a line's part that others chose.
const SHOWN_MAX: usize = 600;

/// Lays the entries out that are found. The workspace is ours alone still.
pub(super) async fn lay_out(
    shared: &Shared,
    attempt: &Attempt,
    cache: &LocalCache,
    log: &mut LogWriter,
) {
    let Some(scope) = scope(attempt, log).await else {
        return;
    };
    for (number, spec) in attempt.spec.caches.iter().enumerate() {
        if number >= CACHES_MAX {
            say(log, &format!("cache: only the first {CACHES_MAX} are used")).await;
            return;
        }
        let (paths, bad) = keyed::paths(&spec.paths);
        for (path, problem) in bad {
            say(log, &format!("cache: `{path}` is left out: {problem}")).await;
        }
        if paths.is_empty() {
            continue;
        }
        let told = one(shared, attempt, cache, (number, spec, &paths, &scope)).await;
        for line in told {
            say(log, &format!("cache `{}`: {line}", spec.key)).await;
        }
    }
}

/// The scope of the assignment; `None` = the stage has no use for it, or is given none.
async fn scope(attempt: &Attempt, log: &mut LogWriter) -> Option<v1::CacheScope> {
    if attempt.spec.caches.is_empty() {
        return None;
    }
    let given = attempt.assign.cache_scope.clone();
    let scope = given.filter(|scope| !scope.read.is_empty());
    if scope.is_none() {
        say(
            log,
            "cache: not used, builds of tags and releases begin from nothing",
        )
        .await;
    }
    scope
}

async fn one(
    shared: &Shared,
    attempt: &Attempt,
    cache: &LocalCache,
    (number, spec, paths, scope): (usize, &CacheSpec, &[String], &v1::CacheScope),
) -> Vec<String> {
    let name = attempt.key.folder();
    let beside = shared.work_dir.join(format!("{name}.cache"));
    if prepare::fresh(&beside).await.is_err() {
        return vec!["not used: there is no room for a folder".to_owned()];
    }
    let request = v1::RestoreCacheRequest {
        directory: beside.display().to_string(),
        scope: Some(scope.clone()),
        key: spec.key.clone(),
        restore_keys: spec.restore_keys.clone(),
        paths: paths.to_vec(),
        // Its own pin: the workspace's stays as it is.
        attempt: format!("{name}-cache-{number}"),
    };
    let answer = cache.restore_cache(request).await;
    let mut told = Vec::new();
    match answer {
        Ok(v1::RestoreCacheResponse {
            key: Some(found),
            files,
            bytes,
        }) => {
            let exact = found == spec.key;
            let what = if exact {
                "hit".to_owned()
            } else {
                format!("begins with `{found}`")
            };
            told.push(format!("{what}, {}", sizes(files, bytes)));
            let (from, to) = (beside.clone(), shared.workspace(&attempt.key));
            let paths = paths.to_vec();
            let moved = tokio::task::spawn_blocking(move || move_all(&from, &to, &paths)).await;
            told.extend(moved.unwrap_or_else(|_| vec!["laying it out panicked".to_owned()]));
        }
        Ok(_) => told.push("miss".to_owned()),
        Err(error) => told.push(format!("not used: {error}")),
    }
    prepare::remove(&beside).await;
    told
}

/// Keeps what the stage left, under keys that nothing is kept under. The container is dead.
pub(super) async fn save(
    shared: &Shared,
    attempt: &Attempt,
    cache: &LocalCache,
    log: &mut LogWriter,
) {
    let given = attempt.assign.cache_scope.as_ref();
    let Some(scope) = given.filter(|scope| !scope.read.is_empty()) else {
        return;
    };
    let caches = attempt.spec.caches.iter().take(CACHES_MAX);
    if attempt.spec.secrets().next().is_some() && !attempt.spec.caches.is_empty() {
        say(log, "cache: not saved, the stage holds a secret").await;
        return;
    }
    for spec in caches {
        let (paths, _said_before) = keyed::paths(&spec.paths);
        if paths.is_empty() {
            continue;
        }
        let request = v1::SaveCacheRequest {
            directory: shared.workspace(&attempt.key).display().to_string(),
            scope: Some(scope.clone()),
            key: spec.key.clone(),
            paths,
        };
        match cache.save_cache(request).await {
            Ok(done) => {
                for note in done.notes {
                    say(log, &format!("cache `{}`: {note}", spec.key)).await;
                }
                let what = match (done.saved, done.files) {
                    (true, files) => format!("saved, {}", sizes(files, done.bytes)),
                    // It is there, as the stage began with it or as another one left it meanwhile.
                    (false, 0) => continue,
                    (false, _) => "not saved, another stage was first".to_owned(),
                };
                say(log, &format!("cache `{}`: {what}", spec.key)).await;
            }
            Err(error) => {
                say(log, &format!("cache `{}`: not saved: {error}", spec.key)).await;
            }
        }
    }
}

pub(super) async fn say(log: &mut LogWriter, line: &str) {
    let line: String = line
        .chars()
        .take(SHOWN_MAX)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    let _spool_is_full = log.say(&line).await;
}

pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

fn sizes(files: u64, bytes: u64) -> String {
    let s = if files == 1 { "" } else { "s" };
    format!("{files} file{s}, {}", size(bytes))
}

/// Moves each path from one folder of ours into another, and says which stay away.
fn move_all(from: &Path, to: &Path, paths: &[String]) -> Vec<String> {
    let mut told = Vec::new();
    for path in paths {
        match move_one(from, to, path) {
            Ok(()) => {}
            // Not in the entry: the stage that left it had none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => told.push(format!(
                "`{path}` stays as the commit or a needed stage has it"
            )),
            Err(error) => told.push(format!("`{path}` cannot be laid out: {error}")),
        }
    }
    told
}

fn move_one(from: &Path, to: &Path, path: &str) -> io::Result<()> {
    let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parents = || parents.split('/').filter(|part| !part.is_empty());
    let mut source = directory(rustix::fs::CWD, from)?;
    for part in parents() {
        source = directory(&source, Path::new(part))?;
    }
    // Nothing is made in the workspace for what is not there.
    rustix::fs::statat(&source, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mut target = directory(rustix::fs::CWD, to)?;
    for part in parents() {
        match rustix::fs::mkdirat(&target, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        target = directory(&target, Path::new(part))?;
    }
    let once = || rustix::fs::renameat_with(&source, name, &target, name, RenameFlags::NOREPLACE);
    match once() {
        Err(rustix::io::Errno::EXIST) => {
            // An empty folder is in nobody's way; anything else stays.
            rustix::fs::unlinkat(&target, name, AtFlags::REMOVEDIR)
                .map_err(|_| io::Error::from(io::ErrorKind::AlreadyExists))?;
            Ok(once()?)
        }
        other => Ok(other?),
    }
}

/// A folder by one name, through no link: a commit may hold any.
fn directory(below: impl std::os::fd::AsFd, name: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(below, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders() -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir_all(from.join("a/b")).unwrap();
        std::fs::create_dir_all(from.join("target")).unwrap();
        std::fs::write(from.join("a/b/file"), "kept").unwrap();
        std::fs::write(from.join("target/file"), "kept").unwrap();
        std::fs::create_dir(&to).unwrap();
        (dir, from, to)
    }

    fn paths() -> Vec<String> {
        vec!["a/b".to_owned(), "none/x".to_owned(), "target".to_owned()]
    }

    #[test]
    fn folders_go_into_the_workspace_and_what_stands_there_stays() {
        let (_dir, from, to) = folders();
        std::fs::create_dir_all(to.join("a/b")).unwrap();
        std::fs::create_dir(to.join("target")).unwrap();
        std::fs::write(to.join("target/file"), "of the commit").unwrap();
        let told = move_all(&from, &to, &paths());
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("`target` stays"), "{told:?}");
        let read = |path: &str| std::fs::read_to_string(to.join(path)).unwrap();
        assert_eq!(read("a/b/file"), "kept");
        assert_eq!(read("target/file"), "of the commit");
        assert!(!to.join("none").exists());
    }

    #[test]
    fn hostile_h095_a_commits_link_leads_no_entry_out_of_the_workspace() {
        let (dir, from, to) = folders();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, to.join("a")).unwrap();
        std::os::unix::fs::symlink(&outside, to.join("target")).unwrap();
        let told = move_all(&from, &to, &paths());
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn sizes_are_written_for_people() {
        assert_eq!(sizes(1, 1_000), "1 file, 1000 B");
        assert_eq!(sizes(2, 5_000), "2 files, 4 KiB");
        assert_eq!(sizes(0, 3 << 30), "0 files, 3072 MiB");
    }
}
