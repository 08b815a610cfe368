//! The hosts of a test, their routers, the coordinator beside them, and what is asked of them. Judges nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use slipway_core::access::PeerRole;
use slipway_daemon::{Clock, Rng};
use slipway_deploy::several::{Host, Hosts, SeveralRouters, SeveralTargets};
use slipway_deploy::targets::DockerHost;
use slipway_deploy::traffic::{RouterTraffic, Traffic as _};
use slipway_deploy::{DockerPlace, EnvironmentTarget, Policy};
use slipway_docker::TlsFiles;
use slipway_identity::{Authority, Own};
use slipway_proto::v1;
use slipway_proto::v1::rollouts_client::RolloutsClient;
use slipway_store::{Db, RolloutRow, Settings};
use slipway_tests::{
    EngineAuthority, Machine, Process, eventually, free_address, require, rollouts, traffic,
};

use super::parts::{router, section};
use crate::rollout::deployer;

const UP: Duration = Duration::from_secs(30);
/// For a rollout with a host that dies in it.
const ENDS: Duration = Duration::from_secs(180);
/// Connections to each host, never idle for long.
const CONNECTIONS: usize = 8;
const SERVES: u16 = 8080;
pub(super) const CONTROL: u16 = 7706;

pub(super) struct World {
    pub(super) good: String,
    db: Db,
    authority: Authority,
    coordinator: Option<Process>,
    fault: Option<(&'static str, String)>,
    at: SocketAddr,
    secret: String,
    started: u32,
    // Before their hosts: what runs on a host ends first.
    routers: Vec<Process>,
    machines: Vec<Machine>,
    // After them: their engines are ended through sockets in it.
    folder: tempfile::TempDir,
}

impl World {
    /// With version `one` everywhere; `None` where this cannot be tested.
    pub(super) async fn start(names: &[&str]) -> Option<Self> {
        let mut world = Self::empty(names).await?;
        world.boot().await;
        let first = world.deploy("one", "blue-green").await;
        let row = world.ended(&first).await;
        assert_eq!(row.status, "completed", "{row:#?}");
        world.good = first;
        Some(world)
    }

    /// Without a coordinator, and nothing deployed.
    pub(super) async fn empty(names: &[&str]) -> Option<Self> {
        require("docker")?;
        slipway_daemon::start::install_crypto();
        assert!(
            Machine::can_be_made(),
            "hosts are made by root, with `ip` and `dockerd`"
        );
        let folder = tempfile::tempdir().expect("a folder");
        let engines = EngineAuthority::create(folder.path());
        let (now, rng) = (Clock::system().now(), Rng::system());
        let authority = Authority::create(now).expect("an authority");
        let busybox = std::process::Command::new("docker")
            .args(["save", "slipway-busybox:1"])
            .output();
        let busybox = busybox.expect("saved").stdout;
        let (mut machines, mut routers, mut docker_hosts) = (Vec::new(), Vec::new(), Vec::new());
        for name in names {
            let machine = Machine::start(name, folder.path(), &engines).await;
            let _loaded = machine.docker(&["load"], &busybox);
            routers.push(router(&machine, &authority));
            docker_hosts.push(place(&machine, folder.path()));
            machines.push(machine);
        }
        let db = Db::open(&Settings::Sqlite(folder.path().join("slipway.db")))
            .await
            .expect("open");
        let target = EnvironmentTarget {
            kind: "docker".to_owned(),
            docker_hosts,
            listen: format!("0.0.0.0:{SERVES}"),
            ..EnvironmentTarget::default()
        };
        let environment = rng.ulid(now);
        let policy = Policy::default();
        let stored = slipway_deploy::ensure_environment(
            &db,
            &environment,
            "production",
            &target,
            &policy,
            now,
        );
        stored.await.expect("stored");
        let secret = deployer(&db, &rng).await;
        let world = Self {
            good: String::new(),
            db,
            folder,
            authority,
            coordinator: None,
            fault: None,
            at: free_address().expect("a free port"),
            secret,
            started: 0,
            routers,
            machines,
        };
        for machine in &world.machines {
            let listens = eventually("the router listens", UP, || async {
                tokio::net::TcpStream::connect(machine.at(CONTROL))
                    .await
                    .ok()
            });
            listens.await.expect("up");
        }
        Some(world)
    }

    /// The hosts as a coordinator uses them.
    pub(super) fn adapters(&self) -> (SeveralTargets, SeveralRouters) {
        let files = client_files(self.folder.path());
        let host = |machine: &Machine| {
            let engine = DockerHost::remote(&format!("tcp://{}", machine.at(2376)), &files);
            Host {
                name: machine.name.clone(),
                listen: String::new(),
                engine: Arc::new(engine.expect("an engine")),
                router: Arc::new(self.channel(&machine.name, PeerRole::Deployer)),
            }
        };
        let hosts = Hosts::new(self.machines.iter().map(host).collect(), Clock::system());
        (SeveralTargets(Arc::clone(&hosts)), SeveralRouters(hosts))
    }

    /// Starts the coordinator, always as the same node.
    pub(super) async fn boot(&mut self) {
        if let Some(mut before) = self.coordinator.take() {
            before.kill();
        }
        let dir = self.folder.path();
        let state = dir.join("node");
        let kept = state.join(slipway_deploy::IDENTITY_FILE);
        if !kept.exists() {
            std::fs::create_dir_all(&state).expect("a folder");
            let (now, rng) = (Clock::system().now(), Rng::system());
            let own = self
                .authority
                .credentials(PeerRole::Deployer, "node", now, &rng);
            own.and_then(|own| own.save(&kept)).expect("kept");
        }
        let text = format!(
            "database = '{}'\nstate_dir = '{}'\nlisten = '{}'\nhealth_address = ''\n\
             [defaults]\nwarm_passes = 1\nmin_ready_ms = 0\nstop_ms = 1000\ntick_ms = 500\n",
            dir.join("slipway.db").display(),
            state.display(),
            self.at,
        );
        let config = dir.join("coordinator.toml");
        std::fs::write(&config, text).expect("written");
        let config = config.display().to_string();
        let args = ["coordinator", "--config", &config];
        let mut faults = vec![];
        faults.extend(self.fault.take());
        let log = dir.join("coordinator.log");
        self.coordinator = Some(Process::start(crate::binary(), &args, &faults, &log));
        let at = self.at;
        let listens = eventually("the coordinator listens", UP, || async {
            tokio::net::TcpStream::connect(at).await.ok()
        });
        listens.await.expect("up");
    }

    /// It is started again, to meet this fault once.
    pub(super) async fn fault(&mut self, what: &'static str, border: &str) {
        self.fault = Some((what, border.to_owned()));
        self.boot().await;
    }

    /// Waits until the coordinator stands still.
    pub(super) async fn stopped(&self) {
        let id = self.coordinator.as_ref().expect("a coordinator").id();
        let stands = eventually("the coordinator stands still", UP, || async {
            let text = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("a process");
            text.rsplit(')')
                .next()
                .is_some_and(|rest| rest.starts_with(" T"))
                .then_some(())
        });
        stands.await.expect("stopped");
    }

    /// It goes on.
    pub(super) fn go_on(&self) {
        self.coordinator
            .as_ref()
            .expect("a coordinator")
            .signal("CONT");
    }

    /// Waits until the coordinator is dead.
    pub(super) async fn died(&mut self) {
        let process = self.coordinator.as_mut().expect("a coordinator");
        for _ in 0..1_200 {
            if !process.is_alive() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the coordinator did not die");
    }

    fn client(&self) -> RolloutsClient<tonic::transport::Channel> {
        rollouts::client(self.at, &self.authority)
    }

    fn signed<T>(&self, message: T) -> tonic::Request<T> {
        rollouts::signed(&self.secret, message)
    }

    /// Begins a rollout of an image that serves `word`; its id.
    pub(super) async fn deploy(&mut self, word: &str, strategy: &str) -> String {
        self.started += 1;
        let start = v1::StartRolloutRequest {
            idempotency_key: format!("key-{}", self.started),
            build_id: format!("build-{}", self.started),
            repo_id: "repo".to_owned(),
            environment: "production".to_owned(),
            image: self.image(word),
            deploy_json: section(strategy).to_string(),
            ..v1::StartRolloutRequest::default()
        };
        let started = self
            .client()
            .start(self.signed(start))
            .await
            .expect("started");
        started.into_inner().deployment_id
    }

    pub(super) async fn roll_back(&self, id: &str) -> String {
        rollouts::roll_back(self.client(), &self.secret, id).await
    }

    /// On every host the same image: made on the first, and carried to the others.
    pub(super) fn image(&self, word: &str) -> String {
        let file = format!(
            "FROM slipway-busybox:1\nRUN mkdir -p /www && echo {word} > /www/index.html && echo ok > /www/health\n\
             CMD [\"httpd\",\"-f\",\"-p\",\"8080\",\"-h\",\"/www\"]\n"
        );
        let (first, others) = self.machines.split_first().expect("a host");
        let id = first.docker(&["build", "-q", "-"], file.as_bytes());
        assert!(id.starts_with("sha256:"), "an image: {id}");
        let saved = first.docker_bytes(&["save", &id], &[]);
        for machine in others {
            let _loaded = machine.docker(&["load"], &saved);
        }
        id
    }

    pub(super) async fn until(
        &self,
        id: &str,
        what: &str,
        good: impl Fn(&RolloutRow) -> bool,
    ) -> RolloutRow {
        rollouts::reaches(&self.db, (id, what), ENDS, good).await
    }

    pub(super) async fn ended(&self, id: &str) -> RolloutRow {
        self.until(id, "ends", |row| row.status != "in_progress")
            .await
    }

    /// What its history says, JSON texts.
    pub(super) async fn events(&self, id: &str) -> Vec<String> {
        let events = self
            .db
            .rollout_events(id, 0, 1_000)
            .await
            .expect("readable");
        events.into_iter().map(|event| event.json).collect()
    }

    pub(super) fn machine(&self, name: &str) -> &Machine {
        let found = self.machines.iter().find(|machine| machine.name == name);
        found.expect("a host of this name")
    }

    pub(super) fn router(&self, name: &str) -> &Process {
        let index = self
            .machines
            .iter()
            .position(|machine| machine.name == name);
        &self.routers[index.expect("a host of this name")]
    }

    fn channel(&self, name: &str, role: PeerRole) -> RouterTraffic {
        let (now, rng) = (Clock::system().now(), Rng::system());
        let own = self
            .authority
            .credentials(role, "test", now, &rng)
            .expect("credentials");
        let address = format!("https://{}", self.machine(name).at(CONTROL));
        RouterTraffic::remote(&address, &Own::new(own)).expect("an address")
    }

    /// Versions with weight at the router of a host.
    pub(super) async fn weights(&self, name: &str) -> Vec<(String, u32)> {
        let reading = self
            .channel(name, PeerRole::Deployer)
            .read("shop/production")
            .await
            .expect("read");
        let table = reading.table.expect("a table");
        table.check().expect("a whole table");
        let carrying = table
            .versions
            .into_iter()
            .filter(|share| share.weight_bp > 0);
        carrying
            .map(|share| (share.version, share.weight_bp))
            .collect()
    }

    /// Waits until the router of a host gives everything to this version.
    pub(super) async fn carries(&self, name: &str, version: &str) {
        let wanted = (version.to_owned(), 10_000);
        let router = self.channel(name, PeerRole::Deployer);
        let what = format!("host {name} carries {version}");
        let reached = eventually(&what, ENDS, || async {
            let table = router.read("shop/production").await.ok()?.table?;
            let carrying = table
                .versions
                .into_iter()
                .filter(|share| share.weight_bp > 0);
            let weights: Vec<_> = carrying
                .map(|share| (share.version, share.weight_bp))
                .collect();
            (weights == [wanted.clone()]).then_some(())
        });
        reached.await.expect("reached");
    }

    /// Nobody but a coordinator of this installation.
    pub(super) async fn others_are_refused(&self, name: &str) {
        assert!(
            self.channel(name, PeerRole::Deployer)
                .read("")
                .await
                .is_ok()
        );
        for role in [
            PeerRole::Agent,
            PeerRole::Cache,
            PeerRole::Dispatcher,
            PeerRole::Router,
        ] {
            let error = self
                .channel(name, role)
                .read("")
                .await
                .expect_err("another role controls a router")
                .to_string();
            assert!(error.contains("for deployers"), "{role}: {error}");
        }
        let (now, rng) = (Clock::system().now(), Rng::system());
        let stranger = Authority::create(now).expect("an authority");
        let own = stranger
            .credentials(PeerRole::Deployer, "node", now, &rng)
            .expect("credentials");
        let address = format!("https://{}", self.machine(name).at(CONTROL));
        let router = RouterTraffic::remote(&address, &Own::new(own)).expect("an address");
        assert!(
            router.read("").await.is_err(),
            "a coordinator of another installation"
        );
    }

    /// Containers of a version that run on a host.
    pub(super) fn running(&self, name: &str, version: &str) -> Vec<String> {
        let filter = format!("label=slipway.version={version}");
        let list = self
            .machine(name)
            .docker(&["ps", "-q", "--filter", &filter], &[]);
        list.lines().map(str::to_owned).collect()
    }

    pub(super) async fn word(&self, name: &str) -> String {
        let asked = reqwest::get(format!("http://{}/", self.machine(name).at(SERVES))).await;
        let answer = asked.expect("answered").text().await.expect("whole");
        answer.trim().to_owned()
    }

    pub(super) fn clients(&self) -> Vec<traffic::Traffic> {
        let names: Vec<&str> = self
            .machines
            .iter()
            .map(|machine| machine.name.as_str())
            .collect();
        self.clients_of(&names)
    }

    pub(super) fn clients_of(&self, names: &[&str]) -> Vec<traffic::Traffic> {
        let start =
            |name: &&str| traffic::Traffic::start(self.machine(name).at(SERVES), CONNECTIONS);
        names.iter().map(start).collect()
    }

    pub(super) async fn none_failed(&self, clients: Vec<traffic::Traffic>) {
        let mut answered = 0;
        for one in clients {
            let seen = one.stop().await;
            answered += seen.answers.values().sum::<u64>();
            assert_eq!(
                seen.failures.len(),
                0,
                "of {answered}: {:?}",
                seen.failures.first()
            );
        }
        assert!(answered > 300, "only {answered} requests");
        // For whoever reads the figures of a run.
        let text = format!("requests: {answered}, failed: 0\n");
        let _closed = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
    }
}

/// What a client of the engines needs, where [`EngineAuthority`] puts it.
fn client_files(folder: &Path) -> TlsFiles {
    TlsFiles {
        ca: folder.join("ca.pem"),
        cert: folder.join("client.pem"),
        key: folder.join("client.key"),
    }
}

/// A host as it is registered.
fn place(machine: &Machine, folder: &Path) -> DockerPlace {
    DockerPlace {
        name: machine.name.clone(),
        docker: format!("tcp://{}", machine.at(2376)),
        tls: Some(client_files(folder)),
        router: format!("https://{}", machine.at(CONTROL)),
        listen: machine.at(SERVES).to_string(),
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // First the coordinator: it would bring back what is removed.
        if let Some(mut process) = self.coordinator.take() {
            process.kill();
        }
        for router in &self.routers {
            router.signal("CONT");
        }
    }
}
