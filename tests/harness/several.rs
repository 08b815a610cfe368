//! Several dispatchers over one PostgreSQL, each a process, and agents that know them all.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::installation;
use crate::{Hook, Process, Proxy, Repository, Rest, eventually, free_address};
use slipway_daemon::{Clock, Rng};
use slipway_dispatcher::token::{self, Kind};
use slipway_identity::{Authority, JoinToken};
use slipway_store::{Db, LeaderRow, Settings};

const UP: Duration = Duration::from_secs(60);

/// One dispatcher.
pub struct Member {
    /// Its API, in the administrator's name.
    pub rest: Rest,
    grpc: SocketAddr,
    /// What agents reach it through.
    pub proxy: Option<Proxy>,
    /// The process.
    pub process: Process,
    restart: (Vec<String>, PathBuf),
}

impl Member {
    /// How agents reach it.
    #[must_use]
    pub fn address(&self) -> String {
        match &self.proxy {
            Some(proxy) => format!("https://{}", proxy.at()),
            None => format!("https://{}", self.grpc),
        }
    }
}

/// The installation.
pub struct Several {
    /// The dispatchers.
    pub members: Vec<Member>,
    /// Their database.
    pub db: Db,
    /// The agents, by the order of their start.
    pub agents: Vec<Process>,
    binary: PathBuf,
    authority: Arc<Authority>,
    database: String,
    secret: String,
    folder: tempfile::TempDir,
    agent_args: Vec<Vec<String>>,
    cache: Option<Process>,
}

impl Several {
    /// So many dispatchers over this database; agents reach them directly.
    ///
    /// # Panics
    /// When they do not start.
    pub async fn start(binary: &Path, database: &str, count: usize) -> Self {
        Self::start_with(binary, database, count, false, "").await
    }

    /// The same, with further settings; with `proxied`, agents reach them through what can be cut.
    ///
    /// # Panics
    /// When they do not start.
    pub async fn start_with(
        binary: &Path,
        database: &str,
        count: usize,
        proxied: bool,
        more: &str,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = Settings::Postgres(database.to_owned());
        let secret = installation::admin(&settings).await;
        let authority = installation::authority(&settings, folder.path()).await;
        let mut several = Self {
            members: Vec::new(),
            db: Db::open(&settings).await.expect("open"),
            binary: binary.to_owned(),
            authority,
            database: database.to_owned(),
            secret,
            folder,
            agents: Vec::new(),
            agent_args: Vec::new(),
            cache: None,
        };
        for number in 0..count {
            let grpc = free_address().expect("a free port");
            let proxy = if proxied {
                Some(Proxy::open(grpc).await)
            } else {
                None
            };
            let member = several.member_at(number, grpc, proxy, more, &[]);
            several.members.push(member);
        }
        for member in &several.members {
            let answers = eventually("the dispatcher answers", UP, || async {
                let asked = member.rest.get("/builds").await;
                asked.is_ok().then_some(())
            });
            answers.await.expect("up");
        }
        several
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// Where a process prints.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}.log"))
    }

    /// Starts a dispatcher with these further settings and flags.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn member(&self, number: usize, more: &str, flags: &[&str]) -> Member {
        let grpc = free_address().expect("a free port");
        self.member_at(number, grpc, None, more, flags)
    }

    fn member_at(
        &self,
        number: usize,
        grpc: SocketAddr,
        proxy: Option<Proxy>,
        more: &str,
        flags: &[&str],
    ) -> Member {
        let address = || free_address().expect("a free port");
        let (rest, intake, health) = (address(), address(), address());
        let url = proxy.as_ref().map_or(grpc, Proxy::at);
        let dir = self.dir().display();
        let text = format!(
            "data_dir = '{dir}/dispatcher-{number}'\ndatabase = '{}'\nrest_address = '{rest}'\n\
             intake_address = '{intake}'\ngrpc_address = '{grpc}'\nhealth_address = '{health}'\n\
             grpc_url = 'https://{url}'\n\
             key_file = '{dir}/keys/seal.key'\ncoordinator = ''\nreconcile_seconds = 0\n\
             allowed_sources = ['file://{dir}/']\n{more}\n[objects]\nfolder = '{dir}/objects'\n",
            self.database,
        );
        let name = format!("dispatcher-{number}");
        let config = self.dir().join(format!("{name}.toml"));
        std::fs::write(&config, text).expect("written");
        let config = config.display().to_string();
        let args = [&["dispatcher", "--config", &config], flags].concat();
        let log = self.log(&name);
        Member {
            rest: Rest::new(rest, intake, &self.secret),
            grpc,
            proxy,
            process: Process::start(&self.binary, &args, &[], &log),
            restart: (args.iter().map(|arg| (*arg).to_owned()).collect(), log),
        }
    }

    /// `kill -9` of a dispatcher, and its next start.
    pub fn restart_member(&mut self, number: usize) {
        let member = &mut self.members[number];
        member.process.kill();
        let (args, log) = &member.restart;
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        member.process = Process::start(&self.binary, &args, &[], log);
    }

    /// `kill -9` of an agent, and its next start.
    pub fn restart_agent(&mut self, number: usize) {
        self.agents[number].kill();
        let args: Vec<&str> = self.agent_args[number].iter().map(String::as_str).collect();
        let log = self.log(&format!("agent-{number}"));
        self.agents[number] = Process::start(&self.binary, &args, &[], &log);
    }

    /// Starts an agent that knows every dispatcher.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start_agent(&mut self, name: &str) {
        if self.cache.is_none() {
            self.start_cache().await;
        }
        let rng = Rng::system();
        let join = token::mint(Kind::Join, &rng);
        let hash = token::hash(Kind::Join, &join).expect("a token");
        let now = Clock::system().now();
        let until = now.after(Duration::from_secs(600));
        let stored = self.db.insert_join_token(&hash, "{}", 1, until, now);
        stored.await.expect("stored");
        let join = JoinToken::new(&join, &self.authority.fingerprint()).text();
        let addresses: Vec<String> = self.members.iter().map(Member::address).collect();
        let dir = self.dir().display();
        let text = format!(
            "data_dir = '{dir}/{name}'\ndispatcher = '{}'\njoin_token = '{join}'\nname = '{name}'\n\
             slots = 2\nhealth_address = ''\ncache = '{dir}/cache.sock'\n\
             allowed_sources = ['file://{dir}/']\n",
            addresses.join(", "),
        );
        let process = self.process(name, "agent", &text);
        let config = self.dir().join(format!("{name}.toml"));
        let args = ["agent", "--config", &config.display().to_string()];
        self.agent_args
            .push(args.iter().map(|arg| (*arg).to_owned()).collect());
        self.agents.push(process);
    }

    async fn start_cache(&mut self) {
        let socket = self.dir().join("cache.sock");
        let text = format!(
            "directory = '{}/cache'\nsocket = '{}'\nhealth_address = ''\n",
            self.dir().display(),
            socket.display(),
        );
        self.cache = Some(self.process("cache", "cache", &text));
        let listens = eventually("the cache daemon listens", UP, || async {
            tokio::net::UnixStream::connect(&socket).await.ok()
        });
        listens.await.expect("up");
    }

    fn process(&self, name: &str, role: &str, settings: &str) -> Process {
        let config = self.dir().join(format!("{name}.toml"));
        std::fs::write(&config, settings).expect("written");
        let config = config.display().to_string();
        let args = [role, "--config", &config];
        Process::start(&self.binary, &args, &[], &self.log(name))
    }

    /// A repository with this pipeline, its hook, and the commit of its first push.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn pushed(&self, pipeline: &str) -> (Hook, String) {
        let repository = Repository::create(self.dir(), "shop");
        repository.write(".slipway.yml", pipeline);
        let sha = repository.push("first");
        let rest = &self.members[0].rest;
        let repo = rest.add_repository(&repository.url).await;
        let hook = rest.add_hook(&repo.expect("registered"), "github").await;
        (hook.expect("made"), sha)
    }

    /// The number of the dispatcher that leads, once one does.
    ///
    /// # Panics
    /// When nobody leads for long.
    pub async fn leader(&self) -> usize {
        self.leader_after(0).await.0
    }

    /// The same, with an epoch above this one.
    ///
    /// # Panics
    /// When nobody leads for long.
    pub async fn leader_after(&self, epoch: i64) -> (usize, LeaderRow) {
        let found = eventually("somebody leads", UP, || async {
            let row = self.db.leader().await.ok()??;
            let of = |m: &Member| row.address == m.address();
            let number = self.members.iter().position(of)?;
            (row.epoch > epoch).then_some((number, row))
        });
        found.await.expect("a leader")
    }
}
