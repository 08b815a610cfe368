//! Resident memory of real processes: idle, and with a long queue.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use slipway_bench::process::Process;
use slipway_core::build::{BuildStatus, StageState};
use slipway_core::id::RepoId;
use slipway_daemon::{Clock, Rng};
use slipway_dispatcher::token::{self, Kind};
use slipway_identity::JoinToken;
use slipway_identity::authority::fingerprint;
use slipway_store::{Db, NewBuild, NewStage, RepositoryRow, Settings};

const QUEUED: usize = 100_000;
/// The most that one pipeline may have.
const OF_A_BUILD: usize = 500;
/// After this an idle process has given back what its start took.
const SETTLED: Duration = Duration::from_secs(5);

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_slipway-measured"))
}

fn free() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

struct Place {
    dir: tempfile::TempDir,
    grpc: SocketAddr,
    health: SocketAddr,
}

impl Place {
    fn new() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        std::fs::create_dir(dir.path().join("data"))?;
        Ok(Self {
            dir,
            grpc: free()?,
            health: free()?,
        })
    }

    fn file(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }

    async fn db(&self) -> anyhow::Result<Db> {
        let path = self.dir.path().join("data/slipway.db");
        Ok(Db::open(&Settings::Sqlite(path)).await?)
    }

    /// Starts the dispatcher and waits until it is ready.
    async fn dispatcher(&self) -> anyhow::Result<Process> {
        let text = format!(
            "data_dir = '{}/data'\nrest_address = '{}'\nintake_address = '{}'\n\
             grpc_address = '{}'\nhealth_address = '{}'\nreconcile_seconds = 0\n",
            self.dir.path().display(),
            free()?,
            free()?,
            self.grpc,
            self.health,
        );
        let config = self.file("dispatcher.toml", &text)?;
        let process = Process::start(binary(), "dispatcher", &config)?;
        let address = format!("http://{}/readyz", self.health);
        for _ in 0..600 {
            if let Ok(answer) = reqwest::get(&address).await
                && answer.status().is_success()
            {
                return Ok(process);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let log = std::fs::read_to_string(config.with_extension("log")).unwrap_or_default();
        anyhow::bail!("the dispatcher is not ready: {log}")
    }

    /// Starts an agent beside a cache daemon, and waits until it is connected.
    async fn agent(&self) -> anyhow::Result<(Process, Process)> {
        let dir = self.dir.path().display();
        let text = format!(
            "directory = '{dir}/cache'\nsocket = '{dir}/cache.sock'\nhealth_address = ''\n"
        );
        let cache = Process::start(binary(), "cache", &self.file("cache.toml", &text)?)?;
        let db = self.db().await?;
        let join = token::mint(Kind::Join, &Rng::system());
        let hash = token::hash(Kind::Join, &join).context("a token")?;
        let now = Clock::system().now();
        let until = now.after(Duration::from_secs(600));
        db.insert_join_token(&hash, "{}", 1, until, now).await?;
        let authority = db.authority().await?.context("the dispatcher made one")?;
        let join = JoinToken::new(&join, &fingerprint(&authority.certificate)).text();
        std::fs::create_dir(self.dir.path().join("agent"))?;
        let text = format!(
            "data_dir = '{dir}/agent'\ndispatcher = 'https://{}'\njoin_token = '{join}'\n\
             name = 'idle'\nslots = 2\nhealth_address = ''\ncache = '{dir}/cache.sock'\n",
            self.grpc,
        );
        let config = self.file("agent.toml", &text)?;
        let agent = Process::start(binary(), "agent", &config)?;
        for _ in 0..600 {
            if db.agents().await?.iter().any(|a| a.connected_ms.is_some()) {
                db.close().await;
                return Ok((agent, cache));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let log = std::fs::read_to_string(config.with_extension("log")).unwrap_or_default();
        anyhow::bail!("the agent did not connect: {log}")
    }
}

async fn fill(db: &Db) -> anyhow::Result<()> {
    let (rng, now) = (Rng::system(), Clock::system().now());
    let repo: RepoId = rng.id(now);
    let row = RepositoryRow {
        repo_id: repo.to_string(),
        repo_url: "https://git.example/bench/long.git".to_owned(),
        name: "long".to_owned(),
        branch: "main".to_owned(),
        weight: 1,
        reconciled_ms: None,
        created_at: now.as_millis(),
    };
    db.insert_repository(row).await?;
    for number in 0..QUEUED / OF_A_BUILD {
        let stage = |n| NewStage {
            stage_id: rng.id(now),
            name: format!("s{n}"),
            spec: "{}".to_owned(),
            needs: Vec::new(),
            runs_on: "success".to_owned(),
            failure_ignored: false,
            at_most_once: false,
            priority: 5,
            labels: format!("{{\"os\":\"v{}\"}}", n % 20),
            group: None,
            timeout_ms: 60_000,
            cache_key: String::new(),
            critical_ms: 60_000,
            inputs: String::new(),
            ask: false,
            memo_note: String::new(),
            state: StageState::Ready,
            reason: None,
        };
        db.create_build(NewBuild {
            build_id: rng.id(now),
            repo_id: repo.clone(),
            pipeline: "default".to_owned(),
            commit_sha: format!("{number:040x}"),
            commit_message: String::new(),
            author: String::new(),
            ref_name: "refs/heads/main".to_owned(),
            branch: "main".to_owned(),
            trigger_type: "push".to_owned(),
            event: "push".to_owned(),
            trust: "trusted".to_owned(),
            event_key: None,
            lane: None,
            group: None,
            urgent: false,
            errors: serde_json::json!([]),
            variables: serde_json::json!({}),
            deploy: None,
            initiator: "bench".to_owned(),
            committed_at: None,
            created: now,
            stages: (0..OF_A_BUILD).map(stage).collect(),
            delivery: None,
            status: BuildStatus::Queued,
        })
        .await?;
    }
    ensure!(db.queue().await?.len() == QUEUED, "not all are queued");
    Ok(())
}

pub(crate) async fn resident() -> anyhow::Result<()> {
    let place = Place::new()?;
    let dispatcher = place.dispatcher().await?;
    let (agent, cache) = place.agent().await?;
    tokio::time::sleep(SETTLED).await;
    let idle = dispatcher.resident()?;
    super::print("rss_dispatcher_idle", idle, "MiB", "target", 60.0);
    super::print("rss_agent_idle", agent.resident()?, "MiB", "target", 25.0);
    drop((agent, cache, dispatcher));
    let place = Place::new()?;
    let db = place.db().await?;
    fill(&db).await?;
    db.close().await;
    let dispatcher = place.dispatcher().await?;
    tokio::time::sleep(SETTLED).await;
    let long = dispatcher.resident()?;
    super::print("rss_dispatcher_100k", long, "MiB", "idle", idle);
    Ok(())
}
