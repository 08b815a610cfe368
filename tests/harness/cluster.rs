//! The whole system in this process, below a temporary folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use slipway_agent::sandbox::Sandbox;
use slipway_agent::sandbox::fake::FakeSandbox;
use slipway_cli::embedded::{Embedded, Options, Ports};
use slipway_core::access::PeerRole;
use slipway_daemon::Shutdown;
use slipway_dispatcher::source::{Commit, FakeSource, Source};
use slipway_identity::{JoinToken, Joined, Own, connect, join};
use slipway_store::Db;
use tonic::transport::Channel;

use crate::git::Repository;
use crate::rest::Rest;

/// What a cluster is made of, when it is not all fakes.
pub struct Parts {
    /// Agents.
    pub agents: u32,
    /// Slots of each.
    pub slots: u32,
    /// Real containers.
    pub docker: bool,
    /// Real repositories.
    pub git: bool,
    /// Another database than SQLite in the folder.
    pub db: Option<Db>,
    /// How often refs are compared; 0 = never.
    pub reconcile_seconds: u64,
    /// Port of health and metrics; 0 = any.
    pub health: u16,
    /// An existing folder, so that a cluster can start again.
    pub dir: Option<PathBuf>,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            agents: 1,
            slots: 4,
            docker: false,
            git: false,
            db: None,
            health: 0,
            reconcile_seconds: 0,
            dir: None,
        }
    }
}

/// The running system.
pub struct Cluster {
    /// The administrator's client.
    pub rest: Rest,
    /// What was started.
    pub up: Embedded,
    /// Commits, unless they are real.
    pub source: FakeSource,
    /// Stages, unless they are real.
    pub sandbox: FakeSandbox,
    folder: Option<tempfile::TempDir>,
    dir: PathBuf,
}

/// A pipeline of one stage.
pub const ONE_STAGE: &str = "version: 1\non:\n  push:\nstages:\n  test:\n    image: slipway-busybox:1\n    commands:\n      - echo hello\n";

/// An address that no fake source looks up.
pub const FAKE_URL: &str = "https://git.example/demo/shop.git";

impl Cluster {
    /// All fakes, one agent.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> Self {
        Self::start_with(Parts::default()).await
    }

    /// Starts what was asked for.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_with(parts: Parts) -> Self {
        match Self::create(parts).await {
            Ok(cluster) => cluster,
            Err(error) => panic!("the system does not start: {error:#}"),
        }
    }

    async fn create(parts: Parts) -> anyhow::Result<Self> {
        let (folder, dir) = match parts.dir {
            Some(dir) => (None, dir),
            None => {
                let folder = tempfile::tempdir()?;
                let dir = folder.path().to_owned();
                (Some(folder), dir)
            }
        };
        let (source, sandbox) = (FakeSource::new(), FakeSandbox::new());
        let fake_sandbox: Arc<dyn Sandbox> = Arc::new(sandbox.clone());
        let fake_source: Arc<dyn Source> = Arc::new(source.clone());
        let options = Options {
            ports: Ports {
                health: parts.health,
                ..Ports::default()
            },
            agents: parts.agents,
            slots: parts.slots,
            reconcile_seconds: parts.reconcile_seconds,
            allowed_sources: vec![format!("file://{}/", dir.display())],
            sandbox: (!parts.docker).then_some(fake_sandbox),
            source: (!parts.git).then_some(fake_source),
            db: parts.db,
            ..Options::in_dir(&dir.join("data"))
        };
        let up = Embedded::start(options, Shutdown::new()).await?;
        let rest = Rest::new(up.rest, up.intake, &up.token);
        Ok(Self {
            rest,
            up,
            source,
            sandbox,
            folder,
            dir,
        })
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// An empty git repository that it may read.
    #[must_use]
    pub fn repository(&self, name: &str) -> Repository {
        Repository::create(&self.dir, name)
    }

    /// A made-up commit with this pipeline; answers with its id.
    #[must_use]
    pub fn commit(&self, number: u32, pipeline: &str) -> String {
        let sha = format!("{number:040x}");
        self.source.put(
            &sha,
            Commit {
                message: format!("commit {number}"),
                author: "Ada".to_owned(),
                time_s: 1_700_000_000 + i64::from(number),
                pipelines: vec![("default".to_owned(), pipeline.to_owned())],
                ..Commit::default()
            },
        );
        sha
    }

    /// gRPC as anybody reaches it: without a certificate.
    ///
    /// # Panics
    /// Never: the address is one.
    #[must_use]
    pub fn channel(&self) -> Channel {
        let (address, known_by) = (self.grpc(), self.up.authority.fingerprint());
        connect::pinned(&address, PeerRole::Dispatcher, &known_by).expect("an address")
    }

    /// gRPC as this process reaches it.
    ///
    /// # Panics
    /// Never: the address is one.
    #[must_use]
    pub fn channel_of(&self, own: &Own) -> Channel {
        own.channel(&self.grpc(), PeerRole::Dispatcher)
            .expect("an address")
    }

    /// The gRPC address.
    #[must_use]
    pub fn grpc(&self) -> String {
        format!("https://{}", self.up.grpc)
    }

    /// Redeems a join token.
    ///
    /// # Errors
    /// When it was refused.
    pub async fn join(&self, token: &str) -> Result<Own, Joined> {
        let token = JoinToken::read(token)?;
        join::join(&self.grpc(), &token, "test").await.map(Own::new)
    }

    /// Stops everything; answers with the folder, which stays while it is held.
    pub async fn stop(self) -> Option<tempfile::TempDir> {
        self.up.stop().await;
        self.folder
    }
}
