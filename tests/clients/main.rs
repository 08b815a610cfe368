//! Build tools that nobody here wrote, against a cache daemon of its own: each misses, leaves what it made,
//! and hits in the next attempt, told of it by the variables that a stage gets.
//!
//! All but one take minutes to install: `make cache-clients` does that and asks for them.

mod tools;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use slipway_cache_client::LocalCache;
use slipway_core::cache::remote::{self, Rights, Tool};
use slipway_proto::v1;
use slipway_tests::{Process, eventually};

const UP: Duration = Duration::from_secs(30);

/// A daemon, and a folder for tools.
struct Place {
    folder: tempfile::TempDir,
    client: LocalCache,
    _daemon: Process,
}

/// What one attempt's tools asked for.
#[derive(Debug)]
struct Asked {
    hits: u64,
    misses: u64,
    entries: u64,
    refused: u64,
    printed: String,
}

impl Place {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let text = format!(
            "directory = '{}'\nsocket = '{}'\nhealth_address = ''\n",
            at("cache"),
            at("cache.sock")
        );
        std::fs::write(at("cache.toml"), text).expect("written");
        let binary = Path::new(env!("CARGO_BIN_EXE_slipway-under-test"));
        let log = folder.path().join("cache.log");
        let args = ["cache", "--config", &at("cache.toml")];
        let daemon = Process::start(binary, &args, &[], &log);
        let socket = folder.path().join("cache.sock");
        let listens = eventually("the cache daemon listens", UP, || async {
            tokio::net::UnixStream::connect(&socket).await.ok()
        });
        listens.await.expect("up");
        let client = LocalCache::new(&socket).expect("an address");
        Self {
            folder,
            client,
            _daemon: daemon,
        }
    }

    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.folder.path().join(name);
        std::fs::create_dir_all(&dir).expect("a folder");
        dir
    }

    /// One attempt: the door is opened, a script executed, the door closed, what came kept.
    async fn attempt(&self, number: u32, tool: Tool, dir: &Path, script: &str) -> Asked {
        let attempt = format!("{}-{number}", tool.name());
        let token = remote::token("a token", &attempt).expect("a token");
        let scope = v1::CacheScope {
            read: vec!["r/trusted".to_owned()],
            write: "r/trusted".to_owned(),
            trusted: true,
        };
        let request = v1::OpenDoorRequest {
            attempt: attempt.clone(),
            address: "127.0.0.1".to_owned(),
            token: token.clone(),
            scope: Some(scope),
            read_only: false,
        };
        let at = self.client.open_door(request).await.expect("opened");
        let told = remote::environment(&[tool], at, &token, Rights::ReadWrite);
        let printed = execute(dir, script, told).await;
        let closed = self.client.close_door(&attempt).await.expect("closed");
        self.client.settle_door(&attempt, true).await.expect("kept");
        Asked {
            hits: closed.hits,
            misses: closed.misses,
            entries: closed.entries,
            refused: closed.refused,
            printed,
        }
    }

    /// The same script in two attempts, with nothing on this machine of the first one in the second.
    async fn twice(&self, tool: Tool, files: &[(&str, &str)], script: &str) -> [Asked; 2] {
        let mut both = Vec::new();
        for number in [1, 2] {
            // The same path: some tools count it as an input.
            let dir = self.dir("work");
            for (path, text) in files {
                let path = dir.join(path);
                std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
                std::fs::write(path, text).expect("written");
            }
            both.push(self.attempt(number, tool, &dir, script).await);
            std::fs::remove_dir_all(&dir).expect("removed");
        }
        let [first, second] = <[Asked; 2]>::try_from(both).expect("two");
        assert!(first.misses > 0 && first.entries > 0, "{first:#?}");
        assert!(second.hits > 0, "{second:#?}");
        assert_eq!(
            (first.refused, second.refused),
            (0, 0),
            "{first:#?} {second:#?}"
        );
        [first, second]
    }
}

async fn execute(dir: &Path, script: &str, told: BTreeMap<String, String>) -> String {
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(dir);
    command.envs(told).env("HOME", dir.join(".home"));
    command.stdin(Stdio::null());
    let ran = tokio::task::spawn_blocking(move || command.output()).await;
    let out = ran.expect("no panic").expect("a shell");
    let both = [out.stdout, out.stderr].concat();
    let text = String::from_utf8_lossy(&both).into_owned();
    assert!(out.status.success(), "{text}");
    text
}
