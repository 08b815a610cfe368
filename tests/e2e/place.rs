//! Real processes over one database.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use slipway_core::access::PeerRole;
use slipway_daemon::{Clock, Rng};
use slipway_dispatcher::token::{self, Kind};
use slipway_identity::{Authority, JoinToken};
use slipway_store::{Db, Settings};
use slipway_tests::{
    Hook, Postgres, Process, Repository, Rest, eventually, free_address, installation,
};

const UP: Duration = Duration::from_secs(30);
/// The shortest that is allowed: what follows from a lost lease is not waited for in minutes.
pub(crate) const LEASE_SECONDS: u64 = 6;

/// The addresses, folders and processes of one installation.
pub(crate) struct Place {
    pub(crate) rest: Rest,
    /// Where the dispatcher says how it is.
    pub(crate) health: SocketAddr,
    grpc: SocketAddr,
    coordinator_at: SocketAddr,
    /// Writes certificates; shared by dispatchers and tests.
    pub(crate) authority: Arc<Authority>,
    database: Settings,
    files: PathBuf,
    dispatcher: Option<Process>,
    agents: Vec<Process>,
    cache: Option<Process>,
    caches: Vec<Process>,
    router: Option<Process>,
    coordinator: Option<Process>,
    _folder: Option<tempfile::TempDir>,
    _server: Option<Postgres>,
}

impl Place {
    /// For a dispatcher alone.
    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let files = folder.path().to_owned();
        let mut place = Self::sqlite_below(&files).await;
        place._folder = Some(folder);
        place
    }

    /// The same in a folder of choice.
    pub(crate) async fn sqlite_below(files: &Path) -> Self {
        let data = files.join("dispatcher");
        std::fs::create_dir_all(&data).expect("a folder");
        let database = Settings::Sqlite(data.join("slipway.db"));
        Self::over(files, database).await
    }

    /// Over what is in this folder and this database already.
    pub(crate) async fn over(files: &Path, database: Settings) -> Self {
        Self::create(files.to_owned(), database, None, None).await
    }

    /// For several processes; `None` where PostgreSQL is not installed.
    pub(crate) async fn postgres() -> Option<Self> {
        let server = Postgres::start()?;
        let folder = tempfile::tempdir().expect("a folder");
        let database = Settings::Postgres(server.database("slipway"));
        let files = folder.path().to_owned();
        Some(Self::create(files, database, Some(folder), Some(server)).await)
    }

    async fn create(
        files: PathBuf,
        database: Settings,
        folder: Option<tempfile::TempDir>,
        server: Option<Postgres>,
    ) -> Self {
        let address = || free_address().expect("a free port");
        let (rest, intake, grpc, coordinator) = (address(), address(), address(), address());
        let health = address();
        let secret = installation::admin(&database).await;
        let authority = installation::authority(&database, &files.join("dispatcher")).await;
        let text = format!(
            "data_dir = '{0}/dispatcher'\ndatabase = '{1}'\nrest_address = '{rest}'\n\
             intake_address = '{intake}'\ngrpc_address = '{grpc}'\nhealth_address = '{health}'\n\
             coordinator = 'https://{coordinator}'\nallowed_sources = ['file://{0}/']\n\
             reconcile_seconds = 0\nlease_seconds = {LEASE_SECONDS}\n\
             [fleet.agent]\ncache = '{0}/cache.sock'\n\
             [fleet.every_agent]\nallowed_sources = ['file://{0}/']\n",
            files.display(),
            address_of(&database),
        );
        std::fs::write(files.join("dispatcher.toml"), text).expect("written");
        Self {
            rest: Rest::new(rest, intake, &secret),
            health,
            grpc,
            coordinator_at: coordinator,
            authority,
            database,
            files,
            dispatcher: None,
            agents: Vec::new(),
            cache: None,
            caches: Vec::new(),
            router: None,
            coordinator: None,
            _folder: folder,
            _server: server,
        }
    }

    /// The dispatcher's gRPC address.
    pub(crate) fn grpc(&self) -> String {
        format!("https://{}", self.grpc)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.files
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.files.join(format!("{name}.log"))
    }

    /// Starts the dispatcher and waits until it answers.
    pub(crate) async fn start_dispatcher(&mut self) {
        self.start_dispatcher_with(&[]).await;
    }

    /// The same with these variables.
    pub(crate) async fn start_dispatcher_with(&mut self, variables: &[(&str, String)]) {
        let config = self.files.join("dispatcher.toml").display().to_string();
        let args = ["dispatcher", "--config", &config];
        let log = self.log("dispatcher");
        let process = Process::start(crate::binary(), &args, variables, &log);
        self.dispatcher = Some(process);
        let answers = eventually("the dispatcher answers", UP, || async {
            let answer = self
                .rest
                .call(reqwest::Method::GET, "/queue", None)
                .await
                .ok()?;
            (answer.status == 200).then_some(())
        });
        answers.await.expect("up");
    }

    pub(crate) fn kill_dispatcher(&mut self) {
        if let Some(mut process) = self.dispatcher.take() {
            process.kill();
        }
    }

    /// Starts the cache daemon that the agents stand beside.
    pub(crate) async fn start_cache(&mut self) {
        let socket = self.files.join("cache.sock");
        let text = format!(
            "directory = '{}/cache'\nsocket = '{}'\nhealth_address = ''\n",
            self.files.display(),
            socket.display(),
        );
        self.cache = Some(self.start("cache", &text));
        let listens = eventually("the cache daemon listens", UP, || async {
            tokio::net::UnixStream::connect(&socket).await.ok()
        });
        listens.await.expect("up");
    }

    /// Starts a cache daemon that has dealings with others, and joins at its first start; its socket.
    pub(crate) async fn start_cache_of(&mut self, name: &str) -> PathBuf {
        let socket = self.files.join(format!("{name}.sock"));
        let text = format!(
            "directory = '{}/cache-{name}'\nsocket = '{}'\nhealth_address = ''\n\
             dispatcher = 'https://{}'\njoin_token = '{}'\npeers_address = '{}'\n",
            self.files.display(),
            socket.display(),
            self.grpc,
            self.join_token(PeerRole::Cache, "{}").await,
            free_address().expect("a free port"),
        );
        let config = self.files.join(format!("cache-{name}.toml"));
        std::fs::write(&config, text).expect("written");
        let config = config.display().to_string();
        let log = self.log(&format!("cache-{name}"));
        let args = ["cache", "--config", &config];
        self.caches
            .push(Process::start(crate::binary(), &args, &[], &log));
        socket
    }

    async fn join_token(&self, role: PeerRole, labels: &str) -> String {
        let db = Db::open(&self.database).await.expect("open");
        let join = token::mint(Kind::Join, &Rng::system());
        let hash = token::hash(Kind::Join, &join).expect("a token");
        let now = Clock::system().now();
        let until = now.after(Duration::from_secs(600));
        let stored = db.insert_role_token(role, &hash, labels, 1, until, now);
        stored.await.expect("stored");
        db.close().await;
        JoinToken::new(&join, &self.authority.fingerprint()).text()
    }

    /// Starts agent `name` with the label `host: <name>` beside the daemon at this socket.
    pub(crate) async fn start_agent_beside(&mut self, name: &str, cache: &Path) {
        let labels = format!(r#"{{"host":"{name}"}}"#);
        let join = self.join_token(PeerRole::Agent, &labels).await;
        let files = self.files.display();
        let text = format!(
            "data_dir = '{files}/{name}'\ndispatcher = 'https://{}'\njoin_token = '{join}'\n\
             name = '{name}'\nslots = 2\nhealth_address = ''\ncache = '{}'\n\
             allowed_sources = ['file://{files}/']\n",
            self.grpc,
            cache.display(),
        );
        let config = self.files.join(format!("{name}.toml"));
        std::fs::write(&config, text).expect("written");
        let config = config.display().to_string();
        let args = ["agent", "--config", &config];
        let process = Process::start(crate::binary(), &args, &[], &self.log(name));
        self.agents.push(process);
    }

    /// Starts agent `name`, which joins at its first start; its place in the list of agents.
    pub(crate) async fn start_agent(&mut self, name: &str) -> usize {
        if self.cache.is_none() {
            self.start_cache().await;
        }
        let data = self.files.join(name);
        std::fs::create_dir_all(&data).expect("a folder");
        let mut join = String::new();
        if !data.join(slipway_agent::IDENTITY_FILE).exists() {
            let db = Db::open(&self.database).await.expect("open");
            let rng = Rng::system();
            join = token::mint(Kind::Join, &rng);
            let hash = token::hash(Kind::Join, &join).expect("a token");
            let now = Clock::system().now();
            let until = now.after(Duration::from_secs(600));
            db.insert_join_token(&hash, "{}", 1, until, now)
                .await
                .expect("stored");
            db.close().await;
            join = JoinToken::new(&join, &self.authority.fingerprint()).text();
        }
        let text = format!(
            "data_dir = '{}'\ndispatcher = 'https://{}'\njoin_token = '{join}'\nname = '{name}'\n\
             slots = 2\nhealth_address = ''\ncache = '{}/cache.sock'\nallowed_sources = ['file://{}/']\n",
            data.display(),
            self.grpc,
            self.files.display(),
            self.files.display(),
        );
        let config = self.files.join(format!("{name}.toml"));
        std::fs::write(&config, text).expect("written");
        let config = config.display().to_string();
        let args = ["agent", "--config", &config];
        self.agents
            .push(Process::start(crate::binary(), &args, &[], &self.log(name)));
        self.agents.len() - 1
    }

    /// A repository with this pipeline, pushed once: its hook, and the body that tells of the push.
    pub(crate) async fn pushed(&self, pipeline: &str) -> (Hook, Vec<u8>) {
        let repository = Repository::create(self.dir(), "shop");
        repository.write(".slipway.yml", pipeline);
        let sha = repository.push("first");
        let repo = self.rest.add_repository(&repository.url).await;
        let repo = repo.expect("registered");
        let hook = self.rest.add_hook(&repo, "github").await.expect("made");
        let body = hook.push_body(crate::ZERO, &sha);
        (hook, body)
    }

    pub(crate) fn agent(&mut self, number: usize) -> &mut Process {
        &mut self.agents[number]
    }

    /// Starts the router, which lives to the end of the place; its control socket.
    pub(crate) async fn start_router(&mut self) -> PathBuf {
        let state = self.files.join("router");
        let text = format!("state_dir = '{}'\nhealth_address = ''\n", state.display());
        self.router = Some(self.start("router", &text));
        let socket = state.join("router.sock");
        let listens = eventually("the router listens", UP, || async {
            tokio::net::UnixStream::connect(&socket).await.ok()
        });
        listens.await.expect("up");
        socket
    }

    /// Starts the coordinator, always as the same node, and waits until it listens; its address.
    pub(crate) async fn start_coordinator(&mut self) -> SocketAddr {
        let (address, state) = (self.coordinator_at, self.files.join("coordinator"));
        let text = format!(
            "database = '{}'\nstate_dir = '{}'\nlisten = '{address}'\nhealth_address = ''\n\
             [defaults]\nmin_ready_ms = 500\nstop_ms = 1000\n",
            address_of(&self.database),
            state.display(),
        );
        let kept = state.join(slipway_deploy::IDENTITY_FILE);
        if !kept.exists() {
            std::fs::create_dir_all(&state).expect("a folder");
            let (now, rng) = (Clock::system().now(), Rng::system());
            let own = self
                .authority
                .credentials(PeerRole::Deployer, "node", now, &rng);
            own.and_then(|own| own.save(&kept)).expect("kept");
        }
        self.coordinator = Some(self.start("coordinator", &text));
        let listens = eventually("the coordinator listens", UP, || async {
            tokio::net::TcpStream::connect(address).await.ok()
        });
        listens.await.expect("up");
        address
    }

    pub(crate) fn kill_coordinator(&mut self) {
        if let Some(mut process) = self.coordinator.take() {
            process.kill();
        }
    }

    /// A process of this role with these settings.
    fn start(&self, role: &str, settings: &str) -> Process {
        let config = self.files.join(format!("{role}.toml"));
        std::fs::write(&config, settings).expect("written");
        let config = config.display().to_string();
        let args = [role, "--config", &config];
        Process::start(crate::binary(), &args, &[], &self.log(role))
    }

    /// The database itself, beside the processes (SQLite: only to read).
    pub(crate) async fn db(&self) -> Db {
        Db::open(&self.database).await.expect("open")
    }

    /// Ends the dispatcher and looks into its database.
    pub(crate) async fn stop_and_open<T>(&mut self, look: impl AsyncFnOnce(Db) -> T) -> T {
        self.kill_dispatcher();
        let db = self.db().await;
        let seen = look(db.clone()).await;
        db.close().await;
        seen
    }
}

fn address_of(database: &Settings) -> String {
    match database {
        // The dispatcher's own default below its folder.
        Settings::Sqlite(_) => String::new(),
        Settings::Postgres(address) => address.clone(),
    }
}
