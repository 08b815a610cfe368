//! A coordinator process with a database of its own, and a deployer who asks it for rollouts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use slipway_core::access::PeerRole;
use slipway_core::id::TokenId;
use slipway_daemon::{Clock, Rng};
use slipway_deploy::{EnvironmentTarget, KubernetesPlace, Policy};
use slipway_dispatcher::token::{self, Kind};
use slipway_identity::Authority;
use slipway_proto::v1;
use slipway_proto::v1::rollouts_client::RolloutsClient;
use slipway_store::{Db, RolloutRow, Settings};
use slipway_tests::{Process, eventually, free_address, rollouts};

use crate::contract::image;

/// For a process to come up on a loaded machine.
const UP: Duration = Duration::from_secs(30);
/// For a rollout: a drain takes 5 s, controllers and a loaded machine their time.
const ENDS: Duration = Duration::from_secs(120);

/// The coordinator of an environment `production` in a namespace.
pub(crate) struct Coordinator {
    pub(crate) db: Db,
    process: Process,
    authority: Authority,
    folder: tempfile::TempDir,
    at: SocketAddr,
    secret: String,
    started: u32,
}

impl Coordinator {
    pub(crate) async fn start(place: KubernetesPlace) -> Self {
        slipway_daemon::start::install_crypto();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("slipway.db");
        let db = Db::open(&Settings::Sqlite(file)).await.unwrap();
        let (rng, now) = (Rng::system(), Clock::system().now());
        let target = EnvironmentTarget {
            docker_hosts: vec![],
            prometheus: None,
            kind: "kubernetes".to_owned(),
            docker: String::new(),
            kubernetes: Some(place),
            router: String::new(),
            listen: "shop.test:80".to_owned(),
            hosts: vec![],
            services: BTreeMap::new(),
        };
        let (id, policy) = (rng.ulid(now), Policy::default());
        slipway_deploy::ensure_environment(&db, &id, "production", &target, &policy, now)
            .await
            .unwrap();
        let secret = token::mint(Kind::Api, &rng);
        let hash = token::hash(Kind::Api, &secret).unwrap();
        let (id, until): (TokenId, _) = (rng.id(now), now.after(Duration::from_secs(3_600)));
        db.insert_token(&id, "alice", &hash, r#"["deployer"]"#, now, until)
            .await
            .unwrap();
        let authority = Authority::create(now).unwrap();
        let own = authority.credentials(PeerRole::Deployer, "node", now, &rng);
        let state = folder.path().join("node");
        std::fs::create_dir_all(&state).unwrap();
        let own = own.unwrap();
        own.save(&state.join(slipway_deploy::IDENTITY_FILE))
            .unwrap();
        let at = free_address().unwrap();
        let process = process(folder.path(), at);
        let this = Self {
            db,
            process,
            authority,
            folder,
            at,
            secret,
            started: 0,
        };
        this.listens().await;
        this
    }

    async fn listens(&self) {
        let listens = eventually("the coordinator listens", UP, || async {
            tokio::net::TcpStream::connect(self.at).await.ok()
        });
        listens.await.unwrap();
    }

    /// `kill -9`, and the same node again.
    pub(crate) async fn crash(&mut self) {
        self.process.kill();
        self.process = process(self.folder.path(), self.at);
        self.listens().await;
    }

    fn client(&self) -> RolloutsClient<tonic::transport::Channel> {
        rollouts::client(self.at, &self.authority)
    }

    fn signed<T>(&self, message: T) -> tonic::Request<T> {
        rollouts::signed(&self.secret, message)
    }

    /// Begins a rollout of an image that says `word`; its id.
    pub(crate) async fn deploy(&mut self, strategy: &str, word: &str) -> String {
        let started = self.hand_over(word, &section(strategy)).await;
        started.unwrap()
    }

    /// The same of this deploy section, which may be refused.
    pub(crate) async fn hand_over(
        &mut self,
        word: &str,
        section: &Value,
    ) -> Result<String, tonic::Status> {
        self.started += 1;
        let start = v1::StartRolloutRequest {
            idempotency_key: format!("key-{}", self.started),
            build_id: format!("build-{}", self.started),
            repo_id: "repo".to_owned(),
            environment: "production".to_owned(),
            image: image(word),
            deploy_json: section.to_string(),
            ..v1::StartRolloutRequest::default()
        };
        let started = self.client().start(self.signed(start)).await?;
        Ok(started.into_inner().deployment_id)
    }

    /// Takes a rollout back; the id of what does it.
    pub(crate) async fn roll_back(&self, id: &str) -> String {
        rollouts::roll_back(self.client(), &self.secret, id).await
    }

    /// Takes a rollout that is under way back.
    pub(crate) async fn abort(&self, id: &str) {
        let abort = v1::AbortRequest {
            deployment_id: id.to_owned(),
            reason: "it is bad".to_owned(),
        };
        self.client().abort(self.signed(abort)).await.unwrap();
    }

    /// Lets a rollout that pauses go on.
    pub(crate) async fn resume(&self, id: &str) {
        let resume = v1::ResumeRequest {
            deployment_id: id.to_owned(),
            reason: "go on".to_owned(),
        };
        self.client().resume(self.signed(resume)).await.unwrap();
    }

    /// How often it moved from one phase to another.
    pub(crate) async fn phases(&self, id: &str) -> usize {
        let events = self.db.rollout_events(id, 0, 1_000).await.unwrap();
        events.iter().filter(|event| event.kind == "phase").count()
    }

    pub(crate) async fn until(
        &self,
        id: &str,
        what: &str,
        good: impl Fn(&RolloutRow) -> bool,
    ) -> RolloutRow {
        rollouts::reaches(&self.db, (id, what), ENDS, good).await
    }

    /// How a rollout ended.
    pub(crate) async fn ended(&self, id: &str) -> RolloutRow {
        self.until(id, "ends", |row| row.status != "in_progress")
            .await
    }
}

fn process(dir: &Path, at: SocketAddr) -> Process {
    let text = format!(
        "database = '{0}/slipway.db'\nstate_dir = '{0}/node'\nlisten = '{at}'\nhealth_address = ''\n\
         [defaults]\nwarm_passes = 1\nmin_ready_ms = 0\nwarm_deadline_ms = 15000\ntick_ms = 250\n",
        dir.display(),
    );
    let config = dir.join("coordinator.toml");
    std::fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    let args = ["coordinator", "--config", &config];
    Process::start(crate::binary(), &args, &[], &dir.join("coordinator.log"))
}

/// Steps long enough to be seen by whoever reads the route a few times a second.
pub(crate) fn section(strategy: &str) -> Value {
    let step = |weight: u32| json!({"weight_bp": weight, "bake_ms": 2_000, "approval": false});
    let steps = match strategy {
        "canary" => vec![step(1_000), step(5_000), step(10_000)],
        "rolling" => vec![step(5_000), step(10_000)],
        _ => vec![],
    };
    json!({
        "service": "shop", "image": "x", "port": 8080, "replicas": 2,
        "health_path": "/health",
        "environments": [{
            "name": "production", "auto": true, "after": [], "target": "",
            "strategy": strategy, "steps": steps, "smoke": [], "approval": null,
            "watch_ms": 2_000, "retain_old_ms": 600_000, "drain_ms": 1_000, "replicas": null,
            "environment": {}, "memory_bytes": 67_108_864, "cpu_millis": 100,
            "max_surge_percent": 25, "max_unavailable_percent": 0, "gates": null,
            "on_failure": "rollback", "require_staging": true,
        }],
    })
}
