//! `kill -9` of the coordinator in the middle of a rollout, under traffic through a real router.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use slipway_core::id::TokenId;
use slipway_daemon::{Clock, Rng};
use slipway_deploy::{EnvironmentTarget, Policy};
use slipway_dispatcher::token::{self, Kind};
use slipway_proto::v1;
use slipway_proto::v1::rollouts_client::RolloutsClient;
use slipway_store::{Db, RolloutRow};
use slipway_tests::{free_address, require, rollouts, traffic};

use crate::place::Place;

/// For a rollout, with its restarts.
const SOON: Duration = Duration::from_secs(60);
/// Connections of the clients, all kept open.
const CONNECTIONS: usize = 64;

/// A service in production, and everything that carries it.
pub(crate) struct Service {
    place: Place,
    pub(crate) db: Db,
    /// Where clients ask.
    pub(crate) address: SocketAddr,
    coordinator: SocketAddr,
    environment: String,
    secret: String,
    started: u32,
}

impl Service {
    /// Serving version `one`; `None` where this cannot be tested.
    async fn start() -> Option<Self> {
        Self::start_on(|_| {}).await
    }

    /// The same, on another target.
    pub(crate) async fn start_on(change: impl FnOnce(&mut EnvironmentTarget)) -> Option<Self> {
        require("docker")?;
        let mut place = Place::postgres().await?;
        let socket = place.start_router().await;
        let (db, rng, now) = (place.db().await, Rng::system(), Clock::system().now());
        let address = free_address().expect("a free port");
        let mut target = EnvironmentTarget {
            docker_hosts: vec![],
            prometheus: None,
            kind: "docker".to_owned(),
            docker: String::new(),
            kubernetes: None,
            router: format!("unix://{}", socket.display()),
            listen: address.to_string(),
            hosts: vec![],
            services: std::collections::BTreeMap::new(),
        };
        change(&mut target);
        let environment = rng.ulid(now);
        let policy = Policy::default();
        let named = "production";
        slipway_deploy::ensure_environment(&db, &environment, named, &target, &policy, now)
            .await
            .expect("stored");
        let secret = deployer(&db, &rng).await;
        let coordinator = place.start_coordinator().await;
        let mut service = Self {
            place,
            db,
            address,
            coordinator,
            environment,
            secret,
            started: 0,
        };
        let first = service
            .deploy(&image("one"), json!(null))
            .await
            .expect("started");
        assert_eq!(service.ended(&first).await.status, "completed");
        Some(service)
    }

    fn client(&self) -> RolloutsClient<tonic::transport::Channel> {
        rollouts::client(self.coordinator, &self.place.authority)
    }

    fn signed<T>(&self, message: T) -> tonic::Request<T> {
        rollouts::signed(&self.secret, message)
    }

    /// Begins a blue-green rollout; its id.
    pub(crate) async fn deploy(
        &mut self,
        image: &str,
        gates: serde_json::Value,
    ) -> Result<String, tonic::Status> {
        self.started += 1;
        let deploy = json!({
            "service": "shop", "image": "x", "port": 8080, "replicas": 2,
            "health_path": "/health",
            "environments": [{
                "name": "production", "auto": true, "after": [], "target": "",
                "strategy": "blue-green", "steps": [], "smoke": [], "approval": null,
                "watch_ms": 2_000, "retain_old_ms": 600_000, "drain_ms": 5_000, "replicas": null,
                "environment": {}, "memory_bytes": 67_108_864, "cpu_millis": 0,
                "max_surge_percent": 25, "max_unavailable_percent": 0, "gates": gates,
                "on_failure": "rollback", "require_staging": true,
            }],
        });
        let start = v1::StartRolloutRequest {
            idempotency_key: format!("key-{}", self.started),
            build_id: format!("build-{}", self.started),
            repo_id: "repo".to_owned(),
            environment: "production".to_owned(),
            image: image.to_owned(),
            deploy_json: deploy.to_string(),
            ..v1::StartRolloutRequest::default()
        };
        let started = self.client().start(self.signed(start)).await?;
        Ok(started.into_inner().deployment_id)
    }

    pub(crate) async fn roll_back(&self, id: &str) -> String {
        rollouts::roll_back(self.client(), &self.secret, id).await
    }

    pub(crate) async fn until(
        &self,
        id: &str,
        what: &str,
        good: impl Fn(&RolloutRow) -> bool,
    ) -> RolloutRow {
        rollouts::reaches(&self.db, (id, what), SOON, good).await
    }

    pub(crate) async fn ended(&self, id: &str) -> RolloutRow {
        self.until(id, "ends", |row| row.status != "in_progress")
            .await
    }

    /// The coordinator dies at once and starts again on its node.
    async fn crash(&mut self) {
        self.place.kill_coordinator();
        self.place.start_coordinator().await;
    }

    pub(crate) async fn serves(&self) -> String {
        let asked = reqwest::get(format!("http://{}/", self.address)).await;
        let answer = asked.expect("answered").text().await.expect("whole");
        answer.trim().to_owned()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // First the coordinator: it would bring back what is removed.
        self.place.kill_coordinator();
        let filter = format!("label=slipway.environment={}", self.environment);
        for id in docker(&["ps", "-aq", "--filter", &filter], "").lines() {
            docker(&["rm", "-f", id], "");
        }
        let network = format!("slipway-env-{}", self.environment.to_lowercase());
        docker(&["network", "rm", &network], "");
    }
}

pub(crate) async fn deployer(db: &Db, rng: &Rng) -> String {
    let now = Clock::system().now();
    let secret = token::mint(Kind::Api, rng);
    let hash = token::hash(Kind::Api, &secret).expect("a token");
    let until = now.after(Duration::from_secs(3_600));
    let id: TokenId = rng.id(now);
    db.insert_token(&id, "alice", &hash, r#"["deployer"]"#, now, until)
        .await
        .expect("stored");
    secret
}

/// An image that serves `word`; its id.
pub(crate) fn image(word: &str) -> String {
    let file = format!(
        "FROM slipway-busybox:1\nRUN mkdir -p /www && echo {word} > /www/index.html \
         && echo ok > /www/health\nCMD [\"httpd\",\"-f\",\"-p\",\"8080\",\"-h\",\"/www\"]\n"
    );
    let id = docker(&["build", "-q", "-"], &file);
    assert!(id.starts_with("sha256:"), "an image: {id}");
    id
}

/// What `docker` prints; nothing when it refuses.
pub(crate) fn docker(args: &[&str], input: &str) -> String {
    let mut command = Command::new("docker");
    command.args(args).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("docker starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("written");
    drop(stdin);
    let output = child.wait_with_output().expect("docker ends");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_killed_in_the_middle_of_a_rollout_finishes_it_and_no_request_is_dropped() {
    let Some(mut service) = Service::start().await else {
        return;
    };
    let clients = traffic::Traffic::start(service.address, CONNECTIONS);
    // Before the new version is ready, as soon as traffic may move, and while all of it is watched.
    let moments: [(&str, &[&str]); 3] = [
        ("warm", &["warm"]),
        ("shift", &["shift", "bake", "watch"]),
        ("watch", &["watch"]),
    ];
    let (words, mut serving) = (["two", "one", "two"], "one");
    for ((moment, phases), word) in moments.into_iter().zip(words) {
        let id = service.deploy(&image(word), json!(null)).await;
        let id = id.expect("started");
        let reaches = format!("reaches {moment}");
        service
            .until(&id, &reaches, |row| phases.contains(&row.phase.as_str()))
            .await;
        service.crash().await;
        let row = service.ended(&id).await;
        // It may judge that the new version was not seen well enough, but what it says is so.
        if row.status == "completed" {
            serving = word;
        }
        let ends = ["completed", "failed", "rolled_back"];
        assert!(ends.contains(&row.status.as_str()), "{moment}: {row:#?}");
        assert_eq!(service.serves().await, serving, "{moment}: {row:#?}");
    }
    let seen = clients.stop().await;
    let answered: u64 = seen.answers.values().sum();
    assert!(answered > 500, "only {answered} requests");
    assert_eq!(
        seen.failures.len(),
        0,
        "of {answered}: {:?}",
        seen.failures.first()
    );
    assert!(seen.answers.contains_key("two"), "{:?}", seen.answers);
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_bluegreen_30s() {
    let Some(mut service) = Service::start().await else {
        return;
    };
    let bad = service.deploy(&image("two"), json!(null)).await;
    let bad = bad.expect("started");
    assert_eq!(service.ended(&bad).await.status, "completed");
    assert_eq!(service.serves().await, "two");
    let clients = traffic::Traffic::start(service.address, CONNECTIONS);
    let clock = Clock::system();
    let asked = clock.monotonic();
    let back = service.roll_back(&bad).await;
    // Accepted is durable: it needs neither this process nor anybody's second request.
    service.crash().await;
    let row = service.ended(&back).await;
    let took = clock.monotonic() - asked;
    assert_eq!(row.status, "completed", "{row:#?}");
    assert_eq!(service.serves().await, "one");
    assert!(took < Duration::from_secs(30), "the way back took {took:?}");
    let seen = clients.stop().await;
    assert_eq!(seen.failures.len(), 0, "{:?}", seen.failures.first());
    is_told(&mut service.place, &bad).await;
}

/// What people read about it afterwards: where it was, and what was seen of its health.
async fn is_told(place: &mut Place, deployment: &str) {
    place.start_dispatcher().await;
    let places = place.rest.get("/environments").await.expect("listed");
    assert_eq!(places[0]["name"], "production", "{places}");
    let path = format!("/deployments/{deployment}/health");
    let looks = place.rest.get(&path).await.expect("listed");
    let look = &looks[0];
    assert!(look["verdict"].is_string(), "it was watched: {looks}");
    assert!(
        look["checked_at"]
            .as_str()
            .is_some_and(|at| at.ends_with('Z'))
    );
}
