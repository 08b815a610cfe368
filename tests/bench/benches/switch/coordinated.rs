//! Rollbacks by a whole coordinator: its store, its engine, a real router and instances that are
//! processes; only the engine of containers is a list.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};
use slipway_bench::routed::{Routed, free};
use slipway_bench::wire::{Instance, Load};
use slipway_core::access::PeerRole;
use slipway_daemon::{Clock, Rng, Shutdown};
use slipway_deploy::targets::fake::FakeTarget;
use slipway_deploy::traffic::RouterTraffic;
use slipway_deploy::{Adapters, Config, Connect, EnvironmentTarget, Parts, Policy};
use slipway_identity::{Authority, Own, connect};
use slipway_proto::v1;
use slipway_proto::v1::rollouts_client::RolloutsClient;
use slipway_store::{Db, RolloutRow, Settings};
use tonic::transport::Channel;

const LIMIT: Duration = Duration::from_secs(30);

/// What was measured.
pub(crate) struct Measured {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// From the request to verified.
    pub(crate) took: Vec<Duration>,
}

struct Given(Adapters);

impl Connect for Given {
    fn connect(&self, _target: &EnvironmentTarget) -> Result<Adapters, String> {
        Ok(self.0.clone())
    }
}

struct Coordinated {
    db: Db,
    client: RolloutsClient<Channel>,
    target: Arc<FakeTarget>,
    started: u32,
}

/// `count` rollouts, each rolled back under load.
pub(crate) async fn rollbacks(binary: &Path, count: u32) -> anyhow::Result<Measured> {
    let dir = tempfile::tempdir()?;
    let listen = free()?;
    let router = Routed::start(binary, dir.path()).await?;
    let shutdown = Shutdown::new();
    let mut all = start(dir.path(), &router.socket, &listen, &shutdown).await?;
    let stable = Instance::start("stable", 0)?;
    let first = all.deploy(&stable.address).await?;
    all.until(&first, |row| row.status == "completed").await?;
    let load = Load::start(&listen, 64);
    load.more(500).await;
    let clock = Clock::system();
    let mut took = Vec::new();
    for _ in 0..count {
        let new = Instance::start("new", 0)?;
        let id = all.deploy(&new.address).await?;
        all.until(&id, |row| row.phase == "watch").await?;
        load.more(200).await;
        let began = clock.monotonic();
        let back = v1::RollBackRequest {
            deployment_id: id.clone(),
            reason: "measured".to_owned(),
            to: String::new(),
        };
        all.client.roll_back(signed(back)?).await?;
        // Verified: past the read-back that proves stable has the traffic.
        all.until(&id, |row| {
            matches!(row.phase.as_str(), "drain_new" | "clean" | "rolled_back")
        })
        .await?;
        took.push(clock.monotonic() - began);
        new.kill();
        all.until(&id, |row| row.status == "rolled_back").await?;
        load.more(200).await;
    }
    let (good, failed) = load.stop().await;
    shutdown.begin();
    shutdown.drained(Duration::from_secs(5)).await;
    Ok(Measured {
        requests: good + failed,
        failed,
        took,
    })
}

async fn start(
    dir: &Path,
    socket: &str,
    listen: &str,
    shutdown: &Shutdown,
) -> anyhow::Result<Coordinated> {
    slipway_daemon::start::install_crypto();
    let db = Db::open(&Settings::Sqlite(dir.join("slipway.db"))).await?;
    let (now, rng) = (Clock::system().now(), Rng::system());
    let place = EnvironmentTarget {
        docker_hosts: vec![],
        prometheus: None,
        kind: "docker".to_owned(),
        docker: String::new(),
        kubernetes: None,
        router: socket.to_owned(),
        listen: listen.to_owned(),
        hosts: vec![],
        services: BTreeMap::new(),
    };
    let policy = Policy::default();
    slipway_deploy::ensure_environment(&db, &rng.ulid(now), "bench", &place, &policy, now).await?;
    let hash = hex::encode(Sha256::digest(b"alice"));
    let expires = now.after(Duration::from_secs(3_600));
    db.insert_token(&rng.id(now), "alice", &hash, r#"["admin"]"#, now, expires)
        .await?;
    let target: Arc<FakeTarget> = Arc::default();
    let traffic = RouterTraffic::new(socket)?;
    let authority = Authority::create(now)?;
    let own = authority.credentials(PeerRole::Deployer, "node", now, &rng)?;
    let listener = Arc::new(std::net::TcpListener::bind("127.0.0.1:0")?);
    let address = format!("https://{}", listener.local_addr()?);
    let mut config = Config::in_dir(dir);
    config.defaults.min_ready_ms = 0;
    config.defaults.warm_passes = 1;
    let mut parts = Parts::new(db.clone());
    parts.connect = Some(Arc::new(Given(Adapters {
        target: target.clone(),
        traffic: Arc::new(traffic),
        metrics: None,
    })));
    parts.listener = Some(listener);
    parts.identity = Some(Own::new(own));
    shutdown.spawn("coordinator", {
        let shutdown = shutdown.clone();
        async move {
            if let Err(error) = slipway_deploy::serve(config, parts, shutdown).await {
                tracing::error!("the coordinator stopped: {error:#}");
            }
        }
    });
    let channel = connect::pinned(&address, PeerRole::Deployer, &authority.fingerprint())?;
    Ok(Coordinated {
        db,
        client: RolloutsClient::new(channel),
        target,
        started: 0,
    })
}

fn signed<T>(message: T) -> anyhow::Result<tonic::Request<T>> {
    let mut request = tonic::Request::new(message);
    let value = "Bearer alice".parse().context("a header")?;
    request.metadata_mut().insert("authorization", value);
    Ok(request)
}

impl Coordinated {
    async fn deploy(&mut self, address: &str) -> anyhow::Result<String> {
        self.started += 1;
        let image = format!("registry.example/shop@sha256:{:064x}", self.started);
        self.target.serve(&image, address);
        let deploy = serde_json::json!({
            "service": "shop", "image": "x", "port": 8080, "replicas": 1, "health_path": "/",
            "environments": [{
                "name": "bench", "auto": true, "after": [], "target": "",
                "strategy": "blue-green", "steps": [], "smoke": [], "approval": null,
                "watch_ms": if self.started == 1 { 0 } else { 600_000 },
                "retain_old_ms": 600_000, "drain_ms": 5_000, "replicas": null,
                "environment": {}, "memory_bytes": 0, "cpu_millis": 0, "max_surge_percent": 25,
                "max_unavailable_percent": 0, "gates": null, "on_failure": "rollback",
                "require_staging": true,
            }],
        });
        let start = v1::StartRolloutRequest {
            idempotency_key: format!("key-{}", self.started),
            build_id: format!("build-{}", self.started),
            repo_id: "repo".to_owned(),
            commit_sha: "c0ffee".to_owned(),
            service: "shop".to_owned(),
            environment: "bench".to_owned(),
            image,
            deploy_json: deploy.to_string(),
            strategy: String::new(),
            initiator: String::new(),
            supersede: false,
        };
        let answer = self.client.start(signed(start)?).await?;
        Ok(answer.into_inner().deployment_id)
    }

    async fn until(&self, id: &str, good: impl Fn(&RolloutRow) -> bool) -> anyhow::Result<()> {
        let clock = Clock::system();
        let began = clock.monotonic();
        loop {
            let row = self.db.rollout(id).await?.context("the deployment")?;
            if good(&row) {
                return Ok(());
            }
            if clock.monotonic() - began > LIMIT {
                bail!("the deployment stands in {}: {:?}", row.phase, row.reason);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
