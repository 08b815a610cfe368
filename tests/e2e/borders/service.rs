//! One service behind a router of its own, deployed by a coordinator process that dies where it is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use slipway_core::access::PeerRole;
use slipway_daemon::{Clock, Rng};
use slipway_deploy::traffic::{RouterTraffic, Traffic as _};
use slipway_deploy::{EnvironmentTarget, Policy};
use slipway_identity::{Authority, connect};
use slipway_proto::v1;
use slipway_proto::v1::rollouts_client::RolloutsClient;
use slipway_store::{Db, RolloutRow, Settings, VersionRow};
use slipway_tests::{Process, eventually, free_address, traffic};

use crate::rollout::{deployer, docker, image};

/// For a process to come up on a loaded machine.
const UP: Duration = Duration::from_secs(30);
/// For a rollout with its restarts. A lost commit is found after a verify limit of 5 s.
const ENDS: Duration = Duration::from_secs(90);
/// Clients that never stop asking: enough to be in the middle of something at each switch.
const CONNECTIONS: usize = 4;

/// What a cell does to the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Brings a new version.
    Forward,
    /// Brings one, and is told to take it back while it has traffic.
    Aborted,
    /// Takes a completed one back.
    RolledBack,
    /// Removes the version before.
    Retired,
}

/// A service, and everything that carries it.
pub(super) struct Service {
    pub(super) db: Db,
    settings: Settings,
    folder: tempfile::TempDir,
    pub(super) authority: Authority,
    _router: Process,
    router: RouterTraffic,
    pub(super) listen: SocketAddr,
    pub(super) at: SocketAddr,
    coordinator: Option<Process>,
    environment: String,
    pub(super) secret: String,
    started: u32,
    clients: Option<traffic::Traffic>,
}

impl Service {
    /// With version `one` in production, brought by this strategy, and clients that ask all the time.
    pub(super) async fn start(strategy: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = Settings::Sqlite(folder.path().join("slipway.db"));
        Self::start_over(folder, settings, strategy).await
    }

    /// The same, over this database.
    pub(super) async fn start_over(
        folder: tempfile::TempDir,
        database: Settings,
        strategy: &str,
    ) -> Self {
        slipway_daemon::start::install_crypto();
        let state = folder.path().join("router");
        let settings = format!("state_dir = '{}'\nhealth_address = ''\n", state.display());
        let router = process(folder.path().to_owned(), "router", "router", &settings, &[]);
        let socket = state.join("router.sock");
        let listens = eventually("the router listens", UP, || async {
            tokio::net::UnixStream::connect(&socket).await.ok()
        });
        listens.await.expect("up");
        let control = format!("unix://{}", socket.display());
        let db = Db::open(&database).await.expect("open");
        let (rng, now) = (Rng::system(), Clock::system().now());
        let address = || free_address().expect("a free port");
        let (listen, at) = (address(), address());
        let target = EnvironmentTarget {
            docker_hosts: vec![],
            prometheus: None,
            kind: "docker".to_owned(),
            docker: String::new(),
            kubernetes: None,
            router: control.clone(),
            listen: listen.to_string(),
            hosts: vec![],
            services: BTreeMap::new(),
        };
        let environment = rng.ulid(now);
        let policy = Policy::default();
        let named = "production";
        let ensured =
            slipway_deploy::ensure_environment(&db, &environment, named, &target, &policy, now);
        ensured.await.expect("stored");
        let secret = deployer(&db, &rng).await;
        let authority = Authority::create(now).expect("an authority");
        let mut service = Self {
            db,
            settings: database,
            folder,
            authority,
            _router: router,
            router: RouterTraffic::new(&control).expect("an address"),
            listen,
            at,
            coordinator: None,
            environment,
            secret,
            started: 0,
            clients: None,
        };
        service.identify("node");
        let first = service.carry_out(Way::Forward, strategy, "one", None).await;
        assert_eq!(first.row.status, "completed", "{:#?}", first.row);
        service.clients = Some(traffic::Traffic::start(listen, CONNECTIONS));
        service
    }

    /// Where the coordinator writes down the borders that it reaches.
    pub(super) fn borders(&self) -> PathBuf {
        self.folder.path().join("borders")
    }

    /// Gives a node its certificate.
    pub(super) fn identify(&self, node: &str) {
        let dir = self.folder.path().join(node);
        std::fs::create_dir_all(&dir).expect("a folder");
        let (now, rng) = (Clock::system().now(), Rng::system());
        let own = self
            .authority
            .credentials(PeerRole::Deployer, node, now, &rng);
        let kept = dir.join(slipway_deploy::IDENTITY_FILE);
        own.and_then(|own| own.save(&kept)).expect("kept");
    }

    /// Starts the coordinator, always as the same node; `crash_at` = where it dies.
    async fn boot(&mut self, crash_at: Option<&str>) {
        self.kill();
        let mut faults = vec![("SLIPWAY_BORDERS", self.borders().display().to_string())];
        faults.extend(crash_at.map(|border| ("SLIPWAY_CRASH_AT", border.to_owned())));
        let started = self.coordinator("node", self.at, &faults).await;
        self.coordinator = Some(started);
    }

    /// A coordinator that listens, or died already.
    pub(super) async fn coordinator(
        &self,
        node: &str,
        at: SocketAddr,
        faults: &[(&str, String)],
    ) -> Process {
        let database = match &self.settings {
            Settings::Sqlite(file) => file.display().to_string(),
            Settings::Postgres(address) => address.clone(),
        };
        let dir = self.folder.path();
        let text = format!(
            "database = '{database}'\nstate_dir = '{}'\nlisten = '{at}'\nhealth_address = ''\n\
             [defaults]\nwarm_passes = 1\nmin_ready_ms = 0\nstop_ms = 1000\ntick_ms = 250\n",
            dir.join(node).display(),
        );
        let mut started = process(dir.to_owned(), "coordinator", node, &text, faults);
        let up = eventually("the coordinator listens, or died", UP, || {
            let dead = !started.is_alive();
            async move { (dead || tokio::net::TcpStream::connect(at).await.is_ok()).then_some(()) }
        });
        up.await.expect("up");
        started
    }

    /// `kill -9` of the coordinator.
    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.coordinator.take() {
            process.kill();
        }
    }

    fn client(&self, at: SocketAddr) -> RolloutsClient<tonic::transport::Channel> {
        let address = format!("https://{at}");
        let known_by = self.authority.fingerprint();
        let channel = connect::pinned(&address, PeerRole::Deployer, &known_by);
        RolloutsClient::new(channel.expect("an address"))
    }

    fn signed<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        let value = format!("Bearer {}", self.secret).parse().expect("a header");
        request.metadata_mut().insert("authorization", value);
        request.set_timeout(Duration::from_secs(10));
        request
    }

    /// The coordinator's answer; `None` when it died meanwhile, and is asked again.
    async fn ask_to_start(&self, way: Way, strategy: &str, word: &str) -> Option<String> {
        self.ask_at(self.at, way, strategy, word).await
    }

    /// What is asked for next is another rollout.
    pub(super) fn next(&mut self) {
        self.started += 1;
    }

    /// The same of another coordinator.
    pub(super) async fn ask_at(
        &self,
        at: SocketAddr,
        way: Way,
        strategy: &str,
        word: &str,
    ) -> Option<String> {
        let start = v1::StartRolloutRequest {
            idempotency_key: format!("key-{}", self.started),
            build_id: format!("build-{}", self.started),
            repo_id: "repo".to_owned(),
            environment: "production".to_owned(),
            image: image(word),
            deploy_json: section(way, strategy).to_string(),
            ..v1::StartRolloutRequest::default()
        };
        let started = self.client(at).start(self.signed(start)).await;
        started.ok().map(|answer| answer.into_inner().deployment_id)
    }

    async fn ask_to_abort(&self, id: &str) -> bool {
        let abort = v1::AbortRequest {
            deployment_id: id.to_owned(),
            reason: "it is bad".to_owned(),
        };
        self.client(self.at).abort(self.signed(abort)).await.is_ok()
    }

    async fn ask_to_roll_back(&self, id: &str) -> Option<String> {
        let ask = v1::RollBackRequest {
            deployment_id: id.to_owned(),
            reason: "it is bad".to_owned(),
            to: String::new(),
        };
        let asked = self.client(self.at).roll_back(self.signed(ask)).await;
        asked.ok().map(|answer| answer.into_inner().deployment_id)
    }

    /// One rollout from its request to its end. The coordinator dies once at `crash_at`, and is started
    /// again whenever it is found dead.
    pub(super) async fn carry_out(
        &mut self,
        way: Way,
        strategy: &str,
        word: &str,
        crash_at: Option<&str>,
    ) -> Done {
        let mut bad = None;
        if way == Way::RolledBack {
            let brought = Box::pin(self.carry_out(Way::Forward, strategy, word, None)).await;
            assert_eq!(brought.row.status, "completed", "{:#?}", brought.row);
            bad = Some(brought.row.deployment_id);
            let _none = std::fs::remove_file(self.borders());
        }
        self.next();
        self.boot(crash_at).await;
        let (mut id, mut told, mut crashed) = (None::<String>, false, false);
        let clock = Clock::system();
        let begun = clock.monotonic();
        loop {
            tokio::time::sleep(Duration::from_millis(40)).await;
            let waited = clock.monotonic() - begun;
            assert!(
                waited < ENDS,
                "{crash_at:?}: {:#?}",
                self.row(id.as_ref()).await
            );
            if !self.is_alive() {
                assert!(
                    crash_at.is_some() && !crashed,
                    "died by itself: {crash_at:?}"
                );
                crashed = true;
                self.boot(None).await;
            }
            if id.is_none() {
                id = match &bad {
                    Some(bad) => self.ask_to_roll_back(bad).await,
                    None => self.ask_to_start(way, strategy, word).await,
                };
            }
            let Some(row) = self.row(id.as_ref()).await else {
                continue;
            };
            if row.status != "in_progress" {
                // A death at the last border is found, too.
                let after = crash_at.is_some_and(|at| at.starts_with("after phase"));
                if !crashed && after {
                    let gone = eventually("it dies", Duration::from_secs(2), || {
                        let dead = !self.is_alive();
                        async move { dead.then_some(()) }
                    });
                    crashed = gone.await.is_ok();
                    if crashed {
                        self.boot(None).await;
                    }
                }
                return Done { row, crashed };
            }
            // A canary in the middle of its steps; everything else with all traffic.
            let looked_at = row.phase == "watch" || strategy == "canary" && row.phase == "bake";
            if way == Way::Aborted && !told && looked_at {
                told = self.ask_to_abort(&row.deployment_id).await;
            }
        }
    }

    /// Lets old versions go, dying at `crash_at`; whether it did.
    pub(super) async fn retire_old(&mut self, crash_at: Option<&str>) -> bool {
        self.boot(crash_at).await;
        let mut crashed = false;
        let clock = Clock::system();
        let begun = clock.monotonic();
        while !self.due().await.is_empty() || !self.leftovers().await.is_empty() {
            let waited = clock.monotonic() - begun;
            assert!(waited < ENDS, "{crash_at:?}: {:?}", self.containers());
            if !self.is_alive() {
                assert!(!crashed, "died by itself: {crash_at:?}");
                crashed = true;
                self.boot(None).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        crashed || crash_at.is_some() && !self.is_alive()
    }

    fn is_alive(&mut self) -> bool {
        self.coordinator.as_mut().is_some_and(Process::is_alive)
    }

    async fn row(&self, id: Option<&String>) -> Option<RolloutRow> {
        self.db.rollout(id?).await.expect("readable")
    }

    /// The version with all traffic, read back from the router: weights that sum up to everything,
    /// at instances that run.
    pub(super) async fn serving(&self) -> String {
        let reading = self.router.read("shop/production").await.expect("read");
        let table = reading.table.expect("a table");
        table.check().expect("a whole table");
        let running = self.containers();
        for share in table.versions.iter().filter(|share| share.weight_bp > 0) {
            for one in &share.instances {
                let known = running.iter().find(|seen| seen.name == one.id);
                let lives = known.is_some_and(|seen| seen.address == one.address);
                assert!(lives, "{one:?} has traffic and does not run: {running:?}");
            }
        }
        let mut whole = table
            .versions
            .iter()
            .filter(|share| share.weight_bp == 10_000);
        let whole = whole.next().expect("one version has everything");
        whole.version.clone()
    }

    /// Containers of versions that are written down as gone.
    pub(super) async fn leftovers(&self) -> Vec<String> {
        self.containers_of(|row| row.state == "gone").await
    }

    /// Containers of versions whose time is over.
    async fn due(&self) -> Vec<String> {
        let now = Clock::system().now().as_millis();
        let over = |row: &VersionRow| row.retire_at.is_some_and(|at| at <= now);
        self.containers_of(over).await
    }

    async fn containers_of(&self, which: impl Fn(&VersionRow) -> bool) -> Vec<String> {
        let mut found = Vec::new();
        for seen in self.containers() {
            let row = self.db.version(&seen.version).await.expect("readable");
            if which(&row.expect("a version of ours")) {
                found.push(seen.name);
            }
        }
        found
    }

    fn containers(&self) -> Vec<Seen> {
        let filter = format!("label=slipway.environment={}", self.environment);
        let ids = docker(&["ps", "-aq", "--filter", &filter], "");
        let mut args = vec![
            "inspect",
            "-f",
            "{{.Name}} {{index .Config.Labels \"slipway.version\"}} \
             {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
        ];
        args.extend(ids.lines());
        if ids.is_empty() {
            return Vec::new();
        }
        let text = docker(&args, "");
        let seen = |line: &str| {
            let mut words = line.trim_start_matches('/').split(' ');
            Some(Seen {
                name: words.next()?.to_owned(),
                version: words.next()?.to_owned(),
                address: format!("{}:8080", words.next()?),
            })
        };
        text.lines().filter_map(seen).collect()
    }

    pub(super) async fn word(&self) -> String {
        let asked = reqwest::get(format!("http://{}/", self.listen)).await;
        let answer = asked.expect("answered").text().await.expect("whole");
        answer.trim().to_owned()
    }

    /// Ends the clients: how often they were answered, and every failure.
    pub(super) async fn clients_saw(&mut self) -> (u64, Vec<String>) {
        let seen = self.clients.take().expect("clients").stop().await;
        (seen.answers.values().sum(), seen.failures)
    }
}

/// How a rollout ended.
pub(super) struct Done {
    pub(super) row: RolloutRow,
    /// Whether the coordinator died on the way.
    pub(super) crashed: bool,
}

#[derive(Debug)]
struct Seen {
    name: String,
    version: String,
    address: String,
}

impl Drop for Service {
    fn drop(&mut self) {
        // First the coordinator: it would bring back what is removed.
        self.kill();
        for seen in self.containers() {
            docker(&["rm", "-f", &seen.name], "");
        }
        let network = format!("slipway-env-{}", self.environment.to_lowercase());
        docker(&["network", "rm", &network], "");
    }
}

/// A deploy section whose looks are as short as they can be. What is told to go back waits for that.
fn section(way: Way, strategy: &str) -> Value {
    let step = |weight: u32| json!({ "weight_bp": weight, "bake_ms": 500, "approval": false });
    let steps = match strategy {
        "canary" => vec![step(1_000), step(5_000), step(10_000)],
        "rolling" => vec![step(5_000), step(10_000)],
        _ => vec![],
    };
    let replicas = if strategy == "blue-green" { 1 } else { 2 };
    let watch_ms = if way == Way::Aborted { 60_000 } else { 500 };
    json!({
        "service": "shop", "image": "x", "port": 8080, "replicas": replicas,
        "health_path": "/health",
        "environments": [{
            "name": "production", "auto": true, "after": [], "target": "",
            "strategy": strategy, "steps": steps, "smoke": [], "approval": null,
            "watch_ms": watch_ms, "retain_old_ms": 1, "drain_ms": 5_000, "replicas": null,
            "environment": {}, "memory_bytes": 0, "cpu_millis": 0,
            "max_surge_percent": 25, "max_unavailable_percent": 0, "gates": null,
            "on_failure": "rollback", "require_staging": true,
        }],
    })
}

fn process(
    dir: PathBuf,
    role: &str,
    name: &str,
    settings: &str,
    env: &[(&str, String)],
) -> Process {
    let config = dir.join(format!("{name}.toml"));
    std::fs::write(&config, settings).expect("written");
    let config = config.display().to_string();
    let args = [role, "--config", &config];
    Process::start(
        crate::binary(),
        &args,
        env,
        &dir.join(format!("{name}.log")),
    )
}
