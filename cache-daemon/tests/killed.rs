//! A daemon that is killed at any moment, under load: what it acknowledged is there, what it shows is
//! whole, and it starts again at once.
#![expect(clippy::unwrap_used, reason = "a test's failure is its message")]
#![expect(
    clippy::disallowed_methods,
    reason = "how often is chosen by who calls; real time passes"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use slipway_cache_client::LocalCache;
use slipway_core::digest::Digest;

/// Longest start: the index is opened in the background, so nothing may be waited for.
const START: Duration = Duration::from_secs(10);

/// So young that it cannot have been evicted.
const YOUNG: Duration = Duration::from_secs(500);

/// What was acknowledged: how long it is, and when that was.
type Known = Arc<Mutex<BTreeMap<Digest, (usize, Instant)>>>;

/// How often it is killed: few by default, `SLIPWAY_KILLS=1000` for an evening.
fn kills() -> u32 {
    let text = std::env::var("SLIPWAY_KILLS").unwrap_or_default();
    text.parse().unwrap_or(8)
}

struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    fn start(folder: &Path) -> Self {
        let socket = folder.join("cache.sock");
        let _old = std::fs::remove_file(&socket);
        let config = folder.join("cache.toml");
        let text = format!(
            "directory = '{}/cache'\nsocket = '{}'\nhealth_address = ''\nquota_bytes = 200000000\n",
            folder.display(),
            socket.display()
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_slipway-cache"))
            .arg("--config")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, socket }
    }

    async fn answers(&self) -> LocalCache {
        let begun = Instant::now();
        loop {
            let client = LocalCache::new(&self.socket).unwrap();
            if client.stats().await.is_ok() {
                return client;
            }
            assert!(begun.elapsed() < START, "the start hangs");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// xorshift: the order of things, not a secret.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn bytes(&mut self) -> Vec<u8> {
        let size = match self.below(4) {
            0 => self.below(100),
            1 | 2 => self.below(64 * 1024),
            _ => self.below(2 << 20),
        };
        let word = self.next().to_le_bytes();
        word.iter().copied().cycle().take(size as usize).collect()
    }
}

/// Every file that has a blob's name has its size and its bytes.
fn check_files(folder: &Path) -> usize {
    let mut seen = 0;
    for shard in std::fs::read_dir(folder.join("cache/objects")).unwrap() {
        for file in std::fs::read_dir(shard.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let (digest, size) = name.split_once('.').unwrap();
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(bytes.len().to_string(), size, "{name}");
            assert_eq!(Digest::of(&bytes).to_string(), digest, "{name}");
            seen += 1;
        }
    }
    seen
}

async fn load(client: LocalCache, folder: PathBuf, number: u64, known: Known) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (number + 1));
    let source = folder.join(format!("source-{number}"));
    let work = folder.join(format!("work-{number}"));
    for round in 0_u64.. {
        let bytes = dice.bytes();
        if let Ok(digest) = client.put(&bytes).await {
            let acknowledged = (bytes.len(), Instant::now());
            known.lock().unwrap().insert(digest, acknowledged);
        }
        if round % 8 == 0 {
            let _old = std::fs::remove_dir_all(&source);
            let _old = std::fs::remove_dir_all(&work);
            std::fs::create_dir_all(source.join("deep")).unwrap();
            std::fs::create_dir_all(&work).unwrap();
            for file in 0..dice.below(20) {
                std::fs::write(source.join(format!("deep/{file}")), dice.bytes()).unwrap();
            }
            let Ok(root) = client.capture_tree(&source, false).await else {
                continue;
            };
            let attempt = format!("s-{number}");
            let laid = client.restore(&work, &root, &[], &attempt).await;
            std::fs::write(work.join("built"), dice.bytes()).unwrap();
            if let Ok(laid) = laid {
                let _layer = client.capture_layer(&work, &laid.root, &attempt).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_no_wrong_byte_no_part_of_a_blob_and_no_hung_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut dice = Dice(std::process::id().into());
    let known = Known::default();
    let mut checked = 0;
    for round in 0..kills() {
        let mut daemon = Daemon::start(folder.path());
        let client = daemon.answers().await;
        // What an earlier life acknowledged is there, right from the first moment.
        known
            .lock()
            .unwrap()
            .retain(|_, (_, at)| at.elapsed() < YOUNG);
        let asked = known.lock().unwrap().clone();
        for (digest, (size, at)) in asked.iter().skip(dice.below(7) as usize).step_by(7) {
            match client.get(digest, 4 << 20).await {
                Ok(bytes) => assert_eq!(bytes.len(), *size),
                Err(error) => assert!(at.elapsed() > YOUNG, "{digest}: {error}"),
            }
            checked += 1;
        }
        let loads: Vec<_> = (0..3)
            .map(|number| {
                let seed = number + u64::from(round) * 3;
                let folder = folder.path().to_owned();
                let working = load(client.clone(), folder, seed, Arc::clone(&known));
                slipway_daemon::spawn("load", working)
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(dice.below(150))).await;
        daemon.kill();
        for load in loads {
            load.abort();
            let _aborted = load.await;
        }
        for number in 0..3 {
            let seed = number + u64::from(round) * 3;
            for name in ["source", "work"] {
                let _gone = std::fs::remove_dir_all(folder.path().join(format!("{name}-{seed}")));
            }
        }
        if round % 10 == 0 {
            check_files(folder.path());
        }
    }
    assert!(check_files(folder.path()) > 0 && (checked > 0 || kills() < 3));
    let daemon = Daemon::start(folder.path());
    let found = daemon.answers().await.check(true).await.unwrap();
    assert_eq!(found.damaged, 0);
    assert!(!folder.path().join("cache/index.broken").exists());
}
