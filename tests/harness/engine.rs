//! The way to this host's Docker engine, which can be dead while its containers live: what a restart of the
//! engine is like where containers outlive it.

use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// Where the engine listens.
const ENGINE: &str = "/var/run/docker.sock";

/// A socket that leads to the engine while it is not dead.
pub struct EngineSocket {
    folder: tempfile::TempDir,
    alive: watch::Sender<bool>,
}

impl EngineSocket {
    /// Opens one.
    ///
    /// # Panics
    /// When there is no place for it.
    #[must_use]
    pub fn open() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(socket(folder.path())).expect("a socket");
        let (alive, state) = watch::channel(true);
        slipway_daemon::spawn("engine socket", async move {
            while let Ok((from, _)) = listener.accept().await {
                slipway_daemon::spawn("to the engine", carry(from, state.clone()));
            }
        });
        Self { folder, alive }
    }

    /// As an environment's target names it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("unix://{}", socket(self.folder.path()).display())
    }

    /// From now on nobody answers; what is open breaks.
    pub fn dies(&self) {
        self.alive.send_replace(false);
    }

    /// It answers again.
    pub fn lives(&self) {
        self.alive.send_replace(true);
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("docker.sock")
}

async fn carry(mut from: UnixStream, mut alive: watch::Receiver<bool>) {
    if !*alive.borrow() {
        return;
    }
    let Ok(mut engine) = UnixStream::connect(ENGINE).await else {
        return;
    };
    tokio::select! {
        _over = tokio::io::copy_bidirectional(&mut from, &mut engine) => {}
        _dead = alive.wait_for(|alive| !alive) => {}
    }
}
