//! Several dispatchers over one PostgreSQL, each a process, and agents that know them all.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use slipway_daemon::{Clock, Rng};
use slipway_dispatcher::token::{self, Kind};
use slipway_identity::{Authority, JoinToken};
use slipway_store::{Db, LeaderRow, Settings};
use slipway_tests::{Hook, Process, Repository, Rest, eventually, free_address};

use crate::place;

const UP: Duration = Duration::from_secs(60);

/// One dispatcher.
pub(crate) struct Member {
    pub(crate) rest: Rest,
    grpc: SocketAddr,
    pub(crate) process: Process,
}

/// The installation.
pub(crate) struct Several {
    pub(crate) members: Vec<Member>,
    pub(crate) db: Db,
    authority: Arc<Authority>,
    database: String,
    secret: String,
    folder: tempfile::TempDir,
    agents: Vec<Process>,
    cache: Option<Process>,
}

impl Several {
    /// So many dispatchers over this database.
    pub(crate) async fn start(database: &str, count: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = Settings::Postgres(database.to_owned());
        let secret = place::admin(&settings).await;
        let authority = place::authority(&settings, folder.path()).await;
        let mut several = Self {
            members: Vec::new(),
            db: Db::open(&settings).await.expect("open"),
            authority,
            database: database.to_owned(),
            secret,
            folder,
            agents: Vec::new(),
            cache: None,
        };
        for number in 0..count {
            let member = several.member(number, "", &[]);
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

    pub(crate) fn dir(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}.log"))
    }

    /// Starts a dispatcher with these further settings and flags.
    pub(crate) fn member(&self, number: usize, more: &str, flags: &[&str]) -> Member {
        let address = || free_address().expect("a free port");
        let (rest, intake, grpc, health) = (address(), address(), address(), address());
        let dir = self.dir().display();
        let text = format!(
            "data_dir = '{dir}/dispatcher-{number}'\ndatabase = '{}'\nrest_address = '{rest}'\n\
             intake_address = '{intake}'\ngrpc_address = '{grpc}'\nhealth_address = '{health}'\n\
             key_file = '{dir}/keys/seal.key'\ncoordinator = ''\nreconcile_seconds = 0\n\
             allowed_sources = ['file://{dir}/']\n{more}\n[objects]\nfolder = '{dir}/objects'\n",
            self.database,
        );
        let name = format!("dispatcher-{number}");
        let config = self.dir().join(format!("{name}.toml"));
        std::fs::write(&config, text).expect("written");
        let config = config.display().to_string();
        let args = [&["dispatcher", "--config", &config], flags].concat();
        Member {
            rest: Rest::new(rest, intake, &self.secret),
            grpc,
            process: Process::start(crate::binary(), &args, &[], &self.log(&name)),
        }
    }

    /// Starts an agent that knows every dispatcher.
    pub(crate) async fn start_agent(&mut self, name: &str) {
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
        let addresses: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("https://{}", member.grpc))
            .collect();
        let dir = self.dir().display();
        let text = format!(
            "data_dir = '{dir}/{name}'\ndispatcher = '{}'\njoin_token = '{join}'\nname = '{name}'\n\
             slots = 2\nhealth_address = ''\ncache = '{dir}/cache.sock'\n\
             allowed_sources = ['file://{dir}/']\n",
            addresses.join(", "),
        );
        let process = self.process(name, "agent", &text);
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
        Process::start(crate::binary(), &args, &[], &self.log(name))
    }

    /// A repository with this pipeline, its hook, and the commit of its first push.
    pub(crate) async fn pushed(&self, pipeline: &str) -> (Hook, String) {
        let repository = Repository::create(self.dir(), "shop");
        repository.write(".slipway.yml", pipeline);
        let sha = repository.push("first");
        let rest = &self.members[0].rest;
        let repo = rest.add_repository(&repository.url).await;
        let hook = rest.add_hook(&repo.expect("registered"), "github").await;
        (hook.expect("made"), sha)
    }

    /// The number of the dispatcher that leads, once one does.
    pub(crate) async fn leader(&self) -> usize {
        self.leader_after(0).await.0
    }

    /// The same, with an epoch above this one.
    pub(crate) async fn leader_after(&self, epoch: i64) -> (usize, LeaderRow) {
        let found = eventually("somebody leads", UP, || async {
            let row = self.db.leader().await.ok()??;
            let of = |m: &Member| row.address == format!("https://{}", m.grpc);
            let number = self.members.iter().position(of)?;
            (row.epoch > epoch).then_some((number, row))
        });
        found.await.expect("a leader")
    }
}
