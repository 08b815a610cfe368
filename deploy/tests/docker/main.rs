//! The whole deploy half on a real Docker engine: coordinator, router, containers, traffic.
//!
//! Needs an engine and the image `slipway-busybox:1` (`tests/images.sh` makes it); without them it
//! is skipped, unless `SLIPWAY_REQUIRE` lists `docker`.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use slipway_core::access::PeerRole;
use slipway_daemon::{Clock, Rng, Shutdown};
use slipway_deploy::{Config, EnvironmentTarget, Parts, Policy};
use slipway_identity::{Authority, Own, connect};
use slipway_proto::v1;
use slipway_proto::v1::rollouts_client::RolloutsClient;
use slipway_store::{Db, RolloutRow, Settings};

/// Whether the engine and the base image are there.
#[expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a skip must be visible"
)]
fn available() -> bool {
    let found = docker(&["image", "inspect", "slipway-busybox:1"], "").is_some();
    let required = std::env::var("SLIPWAY_REQUIRE").unwrap_or_default();
    assert!(
        found || !required.contains("docker"),
        "docker with slipway-busybox:1 is required"
    );
    if !found {
        eprintln!("skipped: docker or the image slipway-busybox:1 is not installed");
    }
    found
}

fn docker(args: &[&str], input: &str) -> Option<String> {
    let mut child = Command::new("docker")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(input.as_bytes()).ok()?;
    let output = child.wait_with_output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}

/// An image that serves `word`; its id.
fn image(word: &str, healthy: bool) -> String {
    let health = if healthy {
        "&& echo ok > /www/health"
    } else {
        ""
    };
    let file = format!(
        "FROM slipway-busybox:1\nRUN mkdir -p /www && echo {word} > /www/index.html {health}\n\
         CMD [\"httpd\",\"-f\",\"-p\",\"8080\",\"-h\",\"/www\"]\n"
    );
    docker(&["build", "-q", "-"], &file).expect("an image")
}

fn containers(version: &str) -> Vec<String> {
    let filter = format!("label=slipway.version={version}");
    let list = docker(
        &["ps", "-a", "--format", "{{.Names}}", "--filter", &filter],
        "",
    );
    list.unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect()
}

struct Place {
    _dir: tempfile::TempDir,
    db: Db,
    client: RolloutsClient<tonic::transport::Channel>,
    listen: String,
    environment_id: String,
    shutdown: Shutdown,
    started: u32,
}

impl Place {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::new();
        let router = slipway_router::Config::in_dir(&dir.path().join("router"));
        let socket = router.socket();
        shutdown.spawn("router", slipway_router::run(router, shutdown.clone()));

        let db = Db::open(&Settings::Sqlite(dir.path().join("slipway.db")))
            .await
            .unwrap();
        let now = Clock::system().now();
        let listen = {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().to_string()
        };
        let target = EnvironmentTarget {
            kind: "docker".to_owned(),
            docker: "unix:///var/run/docker.sock".to_owned(),
            router: format!("unix://{}", socket.display()),
            listen: listen.clone(),
            ..EnvironmentTarget::default()
        };
        let environment_id = Rng::system().ulid(now);
        let policy = Policy::default();
        slipway_deploy::ensure_environment(
            &db,
            &environment_id,
            "production",
            &target,
            &policy,
            now,
        )
        .await
        .unwrap();
        let hash = hex::encode(Sha256::digest(b"secret"));
        let expires = now.after(Duration::from_secs(3_600));
        let id = Rng::system().id(now);
        db.insert_token(&id, "alice", &hash, "[\"deployer\"]", now, expires)
            .await
            .unwrap();

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut config = Config::in_dir(dir.path());
        config.defaults.min_ready_ms = 500;
        config.defaults.warm_deadline_ms = 5_000;
        config.defaults.stop_ms = 1_000;
        let mut parts = Parts::new(db.clone());
        parts.listener = Some(Arc::new(listener));
        let authority = Authority::create(now).unwrap();
        let own = authority.credentials(PeerRole::Deployer, "node", now, &Rng::system());
        parts.identity = Some(Own::new(own.unwrap()));
        shutdown.spawn(
            "coordinator",
            slipway_deploy::serve(config, parts, shutdown.clone()),
        );
        let (address, known_by) = (format!("https://{address}"), authority.fingerprint());
        let channel = connect::pinned(&address, PeerRole::Deployer, &known_by);
        let client = RolloutsClient::new(channel.unwrap());
        Self {
            _dir: dir,
            db,
            client,
            listen,
            environment_id,
            shutdown,
            started: 0,
        }
    }

    fn signed<T>(message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request
            .metadata_mut()
            .insert("authorization", "Bearer secret".parse().unwrap());
        request
    }

    async fn deploy(&mut self, image: &str, retain_old_ms: u64) -> RolloutRow {
        self.started += 1;
        let deploy = serde_json::json!({
            "service": "shop", "image": "x", "port": 8080, "replicas": 2,
            "health_path": "/health",
            "environments": [{
                "name": "production", "auto": true, "after": [], "target": "",
                "strategy": "blue-green", "steps": [],
                "smoke": [{ "http": {
                    "path": "/index.html", "expect": 200, "contains": null, "within_ms": 2_000
                } }],
                "approval": null, "watch_ms": 1_000, "retain_old_ms": retain_old_ms,
                "drain_ms": 5_000, "replicas": null, "environment": {},
                "memory_bytes": 67_108_864, "cpu_millis": 0, "max_surge_percent": 25,
                "max_unavailable_percent": 0, "gates": null, "on_failure": "rollback",
                "require_staging": true,
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
        let started = self
            .client
            .start(Self::signed(start))
            .await
            .unwrap()
            .into_inner();
        self.ended(&started.deployment_id).await
    }

    async fn ended(&self, id: &str) -> RolloutRow {
        for _ in 0..6_000 {
            let row = self.db.rollout(id).await.unwrap().unwrap();
            if row.status != "in_progress" {
                return row;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never ended: {:#?}", self.db.rollout(id).await);
    }

    async fn get(&self) -> Result<String, String> {
        get(&self.listen).await
    }

    async fn stop(self) {
        self.shutdown.begin();
        self.shutdown.drained(Duration::from_secs(20)).await;
        let filter = format!("label=slipway.environment={}", self.environment_id);
        let list = docker(&["ps", "-aq", "--filter", &filter], "").unwrap_or_default();
        for id in list.lines() {
            docker(&["rm", "-f", id], "");
        }
        docker(
            &[
                "network",
                "rm",
                &format!("slipway-env-{}", self.environment_id.to_lowercase()),
            ],
            "",
        );
    }
}

async fn get(address: &str) -> Result<String, String> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .build()
        .map_err(|e| e.to_string())?;
    let asked = client
        .get(format!("http://{address}/index.html"))
        .send()
        .await;
    let answer = asked.map_err(|e| format!("{e:?}"))?;
    let status = answer.status();
    let text = answer.text().await.map_err(|e| format!("{e:?}"))?;
    if status == 200 {
        Ok(text.trim().to_owned())
    } else {
        Err(format!("{status} {text}"))
    }
}

struct Load {
    good: Arc<AtomicU64>,
    bad: Arc<std::sync::Mutex<Vec<String>>>,
    stop: Shutdown,
}

impl Load {
    fn start(address: &str) -> Self {
        let load = Self {
            good: Arc::default(),
            bad: Arc::default(),
            stop: Shutdown::new(),
        };
        for _ in 0..8 {
            let (address, stop) = (address.to_owned(), load.stop.clone());
            let (good, bad) = (Arc::clone(&load.good), Arc::clone(&load.bad));
            load.stop.spawn("load", async move {
                let client = reqwest::Client::builder().no_proxy().build().unwrap();
                while !stop.has_begun() {
                    let asked = client
                        .get(format!("http://{address}/index.html"))
                        .send()
                        .await;
                    match asked {
                        Ok(answer) if answer.status() == 200 => {
                            good.fetch_add(1, Ordering::SeqCst);
                        }
                        Ok(answer) => bad.lock().unwrap().push(answer.status().to_string()),
                        Err(error) => bad.lock().unwrap().push(format!("{error:?}")),
                    }
                }
            });
        }
        load
    }

    async fn stop(self) -> (u64, Vec<String>) {
        self.stop.begin();
        self.stop.drained(Duration::from_secs(10)).await;
        (
            self.good.load(Ordering::SeqCst),
            std::mem::take(&mut self.bad.lock().unwrap()),
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_rolled_out_under_load_and_taken_back_within_a_second() {
    slipway_daemon::start::install_crypto();
    if !available() {
        return;
    }
    let (one, two, bad) = (image("one", true), image("two", true), image("bad", false));
    let mut place = Place::start().await;
    let first = place.deploy(&one, 600_000).await;
    assert_eq!(first.status, "completed", "{first:#?}");
    assert_eq!(place.get().await.as_deref(), Ok("one"));
    let load = Load::start(&place.listen);

    let second = place.deploy(&two, 600_000).await;
    assert_eq!(second.status, "completed", "{second:#?}");
    assert_eq!(place.get().await.as_deref(), Ok("two"));
    assert_eq!(
        containers(&first.target_version).len(),
        2,
        "the old version stays warm"
    );

    // A version without health never gets traffic, and nothing of it stays.
    let failed = place.deploy(&bad, 600_000).await;
    assert_eq!(failed.status, "failed", "{failed:#?}");
    assert_eq!(place.get().await.as_deref(), Ok("two"));
    assert!(containers(&failed.target_version).is_empty());

    let clock = Clock::system();
    let ask = v1::RollBackRequest {
        deployment_id: second.deployment_id.clone(),
        reason: "it is bad".to_owned(),
        to: String::new(),
    };
    let back = place
        .client
        .roll_back(Place::signed(ask))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(back.rolled_back_to_version, first.target_version);
    let done = place.ended(&back.deployment_id).await;
    let took = clock.monotonic();
    assert_eq!(done.status, "completed", "{done:#?}");
    assert_eq!(place.get().await.as_deref(), Ok("one"));
    assert!(took < Duration::from_secs(1), "the rollback took {took:?}");

    let (good, failures) = load.stop().await;
    assert!(good > 500, "only {good} requests");
    assert!(
        failures.is_empty(),
        "{} of {good} failed: {:?}",
        failures.len(),
        failures.first()
    );

    // The time of the old versions is over: they are removed.
    let third = place.deploy(&two, 0).await;
    assert_eq!(third.status, "completed", "{third:#?}");
    for _ in 0..600 {
        if containers(&first.target_version).is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        containers(&first.target_version).is_empty(),
        "never retired"
    );
    assert_eq!(containers(&third.target_version).len(), 2);
    assert_eq!(place.get().await.as_deref(), Ok("two"));
    place.stop().await;
}
