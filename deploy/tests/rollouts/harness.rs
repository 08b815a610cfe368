//! A coordinator on its own runtime (so that it can be killed), targets and routers that outlive it,
//! and clients with tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use slipway_core::access::PeerRole;
use slipway_daemon::{Clock, Rng, Shutdown};
use slipway_deploy::targets::fake::FakeTarget;
use slipway_deploy::traffic::fake::FakeTraffic;
use slipway_deploy::{Adapters, Config, Connect, EnvironmentTarget, Parts, Policy};
use slipway_identity::{Authority, Own, connect};
use slipway_proto::v1;
use slipway_proto::v1::rollouts_client::RolloutsClient;
use slipway_store::{Db, RolloutRow, Settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Status;
use tonic::transport::Channel;

pub(crate) struct Fakes {
    pub(crate) target: Arc<FakeTarget>,
    pub(crate) traffic: Arc<FakeTraffic>,
}

struct ConnectFakes(Adapters);

impl Connect for ConnectFakes {
    fn connect(&self, _target: &EnvironmentTarget) -> Result<Adapters, String> {
        Ok(self.0.clone())
    }
}

/// A whole place to deploy to.
pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) db: Db,
    pub(crate) fakes: Fakes,
    connect: Arc<dyn Connect>,
    listener: Arc<std::net::TcpListener>,
    authority: Authority,
    running: Option<tokio::runtime::Runtime>,
    started: u32,
    /// The repository that deploys.
    pub(crate) repo: &'static str,
}

impl World {
    /// With environments `staging` and `production`, and a coordinator.
    pub(crate) async fn start() -> Self {
        let fakes = Fakes {
            target: Arc::default(),
            traffic: Arc::default(),
        };
        let adapters = Adapters {
            target: fakes.target.clone(),
            traffic: fakes.traffic.clone(),
            metrics: None,
        };
        Self::with(fakes, Arc::new(ConnectFakes(adapters))).await
    }

    async fn with(fakes: Fakes, connect: Arc<dyn Connect>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&Settings::Sqlite(dir.path().join("slipway.db")))
            .await
            .unwrap();
        let now = Clock::system().now();
        let target = EnvironmentTarget {
            docker_hosts: vec![],
            prometheus: None,
            kind: "docker".to_owned(),
            docker: String::new(),
            kubernetes: None,
            router: "unix:///nowhere".to_owned(),
            listen: "127.0.0.1:8081".to_owned(),
            hosts: vec![],
            services: std::collections::BTreeMap::new(),
        };
        for name in ["staging", "production"] {
            let id = Rng::system().ulid(now);
            let policy = Policy::default();
            slipway_deploy::ensure_environment(&db, &id, name, &target, &policy, now)
                .await
                .unwrap();
        }
        for (who, roles) in [
            ("alice", r#"["deployer","approver"]"#),
            ("bob", r#"["approver"]"#),
            ("vera", r#"["viewer"]"#),
        ] {
            token(&db, who, roles).await;
        }
        let listener = Arc::new(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let mut world = Self {
            dir,
            db,
            fakes,
            connect,
            listener,
            authority: Authority::create(now).unwrap(),
            running: None,
            started: 0,
            repo: "repo",
        };
        world.boot();
        world
    }

    /// Starts a coordinator on the same node.
    pub(crate) fn boot(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let mut config = Config::in_dir(self.dir.path());
        config.defaults.min_ready_ms = 0;
        config.defaults.warm_deadline_ms = 4_000;
        config.defaults.tick_ms = 100;
        let (now, rng) = (Clock::system().now(), Rng::system());
        let own = self
            .authority
            .credentials(PeerRole::Deployer, "node", now, &rng);
        let own = Own::new(own.unwrap());
        let (connect, listener) = (Arc::clone(&self.connect), Arc::clone(&self.listener));
        runtime.spawn(async move {
            let db = Db::open(&config.settings()).await.unwrap();
            let mut parts = Parts::new(db);
            parts.connect = Some(connect);
            parts.listener = Some(listener);
            parts.identity = Some(own);
            slipway_deploy::serve(config, parts, Shutdown::new())
                .await
                .unwrap();
        });
        self.running = Some(runtime);
    }

    /// Ends it in the middle of whatever it does.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.running.take() {
            runtime.shutdown_background();
        }
    }

    pub(crate) async fn client(&self) -> RolloutsClient<Channel> {
        let address = self.listener.local_addr().unwrap();
        let (address, known_by) = (format!("https://{address}"), self.authority.fingerprint());
        let channel = connect::pinned(&address, PeerRole::Deployer, &known_by);
        RolloutsClient::new(channel.unwrap())
    }

    pub(crate) async fn deploy(
        &mut self,
        environment: &str,
        image: &str,
        change: impl FnOnce(&mut serde_json::Value),
    ) -> Result<String, Status> {
        self.started += 1;
        let mut deploy = deploy_section();
        change(&mut deploy);
        let start = v1::StartRolloutRequest {
            idempotency_key: format!("key-{}", self.started),
            build_id: format!("build-{}", self.started),
            repo_id: self.repo.to_owned(),
            commit_sha: "c0ffee".to_owned(),
            service: "shop".to_owned(),
            environment: environment.to_owned(),
            image: image.to_owned(),
            deploy_json: deploy.to_string(),
            strategy: String::new(),
            initiator: String::new(),
            supersede: deploy["supersede"] == true,
        };
        let answer = self.client().await.start(as_user("alice", start)).await?;
        Ok(answer.into_inner().deployment_id)
    }

    pub(crate) async fn row(&self, id: &str) -> RolloutRow {
        self.db.rollout(id).await.unwrap().unwrap()
    }

    /// Waits until `good` holds for the deployment.
    pub(crate) async fn until(
        &self,
        id: &str,
        what: &str,
        good: impl Fn(&RolloutRow) -> bool,
    ) -> RolloutRow {
        for _ in 0..2_000 {
            let row = self.row(id).await;
            if good(&row) {
                return row;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never {what}: {:#?}", self.row(id).await);
    }

    pub(crate) async fn ended(&self, id: &str) -> RolloutRow {
        self.until(id, "ended", |row| row.status != "in_progress")
            .await
    }

    /// The version that has all traffic in `environment`.
    pub(crate) async fn serving(&self, environment: &str) -> Option<String> {
        use slipway_deploy::traffic::Traffic as _;
        let reading = self
            .fakes
            .traffic
            .read(&format!("shop/{environment}"))
            .await
            .unwrap();
        let table = reading.table?;
        table.check().unwrap();
        table
            .versions
            .into_iter()
            .find(|v| v.weight_bp == 10_000)
            .map(|v| v.version)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Adds a token; its secret is the subject's name.
pub(crate) async fn token(db: &Db, who: &str, roles: &str) {
    let now = Clock::system().now();
    let hash = hex::encode(Sha256::digest(who.as_bytes()));
    let expires = now.after(Duration::from_secs(3_600));
    db.insert_token(&Rng::system().id(now), who, &hash, roles, now, expires)
        .await
        .unwrap();
}

/// A request with the token of `who`.
pub(crate) fn as_user<T>(who: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let value = format!("Bearer {who}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// A pinned image with this digit all over.
pub(crate) fn image(digit: char) -> String {
    format!(
        "registry.example/shop@sha256:{}",
        digit.to_string().repeat(64)
    )
}

fn deploy_section() -> serde_json::Value {
    let environment = |name: &str, after: &[&str]| {
        serde_json::json!({
            "name": name, "auto": true, "after": after, "target": "", "strategy": "blue-green",
            "steps": [], "smoke": [], "approval": null, "watch_ms": 0, "retain_old_ms": 600_000,
            "drain_ms": 1_000, "replicas": null, "environment": {}, "memory_bytes": 0,
            "cpu_millis": 0, "max_surge_percent": 25, "max_unavailable_percent": 0, "gates": null,
            "on_failure": "rollback", "require_staging": true,
        })
    };
    serde_json::json!({
        "service": "shop", "image": "x", "port": 8080, "replicas": 2, "health_path": "/health",
        "environments": [environment("staging", &[]), environment("production", &[])],
    })
}

/// An instance on this host that answers every request with one status.
pub(crate) struct Instance {
    pub(crate) address: String,
    pub(crate) status: Arc<AtomicU16>,
}

impl Instance {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let status = Arc::new(AtomicU16::new(200));
        let answer = Arc::clone(&status);
        slipway_daemon::spawn("instance", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = Arc::clone(&answer);
                slipway_daemon::spawn("answer", async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    let status = answer.load(Ordering::SeqCst);
                    let text = format!(
                        "HTTP/1.1 {status} X\r\ncontent-length: 4\r\nconnection: close\r\n\r\nshop"
                    );
                    let _gone = stream.write_all(text.as_bytes()).await;
                });
            }
        });
        Self { address, status }
    }
}
