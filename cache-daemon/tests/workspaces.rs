//! Workspaces through the daemon's door: laid out, changed, captured, laid out again.
#![expect(clippy::unwrap_used, reason = "a test's failure is its message")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use slipway_cache::index::MemoryIndex;
use slipway_cache::{Config, Parts};
use slipway_cache_client::{CacheError, LocalCache};
use slipway_core::digest::Digest;
use slipway_daemon::{Clock, Shutdown};

struct Daemon {
    folder: tempfile::TempDir,
    client: LocalCache,
    shutdown: Shutdown,
}

async fn daemon() -> Daemon {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("cache.sock");
    let config = Config {
        directory: folder.path().join("cache"),
        socket: socket.clone(),
        quota_bytes: 1 << 30,
        dispatcher: String::new(),
        join_token: String::new(),
        name: String::new(),
        peers_address: "127.0.0.1:0".parse().unwrap(),
        peers_advertise: String::new(),
        health_address: String::new(),
        metrics_token: String::new(),
    };
    let parts = Parts {
        clock: Clock::system(),
        index: std::sync::Arc::new(MemoryIndex::default()),
    };
    let shutdown = Shutdown::new();
    let stop = shutdown.clone();
    slipway_daemon::spawn("cache", slipway_cache::serve(config, parts, stop));
    let waiting = async {
        while !socket.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .unwrap();
    let client = LocalCache::new(&socket).unwrap();
    Daemon {
        folder,
        client,
        shutdown,
    }
}

impl Daemon {
    fn dir(&self, name: &str) -> std::path::PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn a_workspace_comes_back_as_a_stage_left_it() {
    let daemon = daemon().await;
    let source = daemon.dir("source");
    fs::create_dir_all(source.join("src/deep")).unwrap();
    fs::create_dir_all(source.join(".git")).unwrap();
    fs::write(source.join(".git/config"), "not captured").unwrap();
    fs::write(source.join("src/deep/a.txt"), "hello").unwrap();
    fs::write(source.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(source.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("src/deep/a.txt", source.join("link")).unwrap();
    let root = daemon.client.capture_tree(&source, false).await.unwrap();

    let first = daemon.dir("first");
    let restored = daemon.client.restore(&first, &root, &[], "").await.unwrap();
    assert_eq!((restored.root, restored.files), (root, 2));
    assert_eq!(read(&first.join("link")), "hello");
    assert!(!first.join(".git").exists());
    let mode = fs::metadata(first.join("run.sh"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o755);

    fs::write(first.join("built"), vec![7; 100_000]).unwrap();
    fs::write(first.join("src/deep/a.txt"), "jello").unwrap();
    fs::remove_file(first.join("run.sh")).unwrap();
    let layer = daemon
        .client
        .capture_layer(&first, &restored.root, "")
        .await
        .unwrap();
    assert_eq!((layer.changed, layer.removed), (2, 1));

    let second = daemon.dir("second");
    let again = daemon
        .client
        .restore(&second, &root, &[layer.layer], "")
        .await
        .unwrap();
    assert_eq!(read(&second.join("src/deep/a.txt")), "jello");
    assert_eq!(fs::metadata(second.join("built")).unwrap().len(), 100_000);
    assert!(!second.join("run.sh").exists());
    let nothing = daemon
        .client
        .capture_layer(&second, &again.root, "")
        .await
        .unwrap();
    assert_eq!((nothing.changed, nothing.removed), (0, 0));
    let time = |p: &Path| fs::metadata(p).unwrap().modified().unwrap();
    assert_eq!(time(&first.join("built")), time(&second.join("built")));
}

#[tokio::test]
async fn a_file_rewritten_with_its_old_size_and_time_is_still_noticed() {
    let daemon = daemon().await;
    let source = daemon.dir("source");
    fs::write(source.join("f"), "aaaa").unwrap();
    let root = daemon.client.capture_tree(&source, false).await.unwrap();
    let work = daemon.dir("work");
    let base = daemon.client.restore(&work, &root, &[], "").await.unwrap();
    let file = fs::File::options()
        .write(true)
        .open(work.join("f"))
        .unwrap();
    let before = file.metadata().unwrap().modified().unwrap();
    fs::write(work.join("f"), "bbbb").unwrap();
    file.set_modified(before).unwrap();
    let layer = daemon
        .client
        .capture_layer(&work, &base.root, "")
        .await
        .unwrap();
    assert_eq!(layer.changed, 1);
}

#[tokio::test]
async fn links_and_pipes_of_a_stage_are_never_followed_or_read() {
    let daemon = daemon().await;
    let outside = daemon.dir("outside");
    fs::write(outside.join("secret"), "secret").unwrap();
    let work = daemon.dir("work");
    symlink(outside.join("secret"), work.join("file")).unwrap();
    symlink(&outside, work.join("folder")).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(work.join("pipe"))
        .status();
    assert!(made.unwrap().success());
    fs::write(work.join("good"), "good").unwrap();
    let root = daemon.client.capture_tree(&work, false).await.unwrap();
    let copy = daemon.dir("copy");
    let restored = daemon.client.restore(&copy, &root, &[], "").await.unwrap();
    assert_eq!(restored.files, 1);
    let names: Vec<_> = fs::read_dir(&copy)
        .unwrap()
        .map(|f| f.unwrap().file_name())
        .collect();
    assert_eq!(names, ["good"]);
}

#[tokio::test]
async fn what_is_not_there_is_a_miss_and_a_full_directory_is_refused() {
    let daemon = daemon().await;
    let missing = Digest::of(b"never stored");
    let work = daemon.dir("work");
    let error = daemon
        .client
        .restore(&work, &missing, &[], "")
        .await
        .unwrap_err();
    assert!(matches!(error, CacheError::Miss(_)), "{error}");
    let blob = vec![3; 1 << 20];
    let name = daemon.client.put(&blob).await.unwrap();
    assert_eq!(daemon.client.get(&name, 2 << 20).await.unwrap(), blob);
    assert!(daemon.client.get(&name, 1 << 10).await.is_err());
    assert_eq!(
        daemon.client.has(&[name, missing]).await.unwrap(),
        [true, false]
    );
    fs::write(work.join("x"), "x").unwrap();
    let root = daemon.client.capture_tree(&work, false).await.unwrap();
    assert!(daemon.client.restore(&work, &root, &[], "").await.is_err());
    assert!(daemon.client.stats().await.unwrap().blobs >= 3);
}
