//! A PostgreSQL of a test's own: a folder, a socket in it, gone on drop.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::require::require;
use crate::wait;

const START: Duration = Duration::from_secs(30);

/// A running server.
pub struct Postgres {
    server: Child,
    folder: tempfile::TempDir,
    programs: PathBuf,
    port: u16,
    as_other: bool,
}

impl Postgres {
    /// Starts one, or `None` where PostgreSQL is not installed.
    ///
    /// # Panics
    /// When it is installed and does not start.
    #[must_use]
    pub fn start() -> Option<Self> {
        let initdb = require("postgres")?.program;
        match Self::create(&initdb) {
            Ok(server) => Some(server),
            Err(error) => panic!("PostgreSQL does not start: {error:#}"),
        }
    }

    fn create(initdb: &Path) -> anyhow::Result<Self> {
        let folder = folder()?;
        let as_other = is_root();
        let programs = initdb.canonicalize()?.parent().map(Path::to_owned);
        let programs = programs.context("initdb lies in no folder")?;
        let data = folder.path().join("data");
        let made = command(initdb, as_other)
            .arg("-D")
            .arg(&data)
            .args([
                "-U",
                "slipway",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
            ])
            .output()?;
        let complaint = String::from_utf8_lossy(&made.stderr).into_owned();
        ensure!(made.status.success(), "initdb: {complaint}");
        // Durability is what other tests are about; here the engine's SQL is.
        Self::serve(folder, programs, &["fsync=off", "shared_buffers=32MB"])
    }

    fn serve(
        folder: tempfile::TempDir,
        programs: PathBuf,
        settings: &[&str],
    ) -> anyhow::Result<Self> {
        let (port, as_other) = (wait::free_address()?.port(), is_root());
        let log = std::fs::File::create(folder.path().join("log"))?;
        let mut server = command(&programs.join("postgres"), as_other);
        server
            .arg("-D")
            .arg(folder.path().join("data"))
            .arg("-k")
            .arg(folder.path())
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "max_connections=120"]);
        for setting in settings {
            server.args(["-c", setting]);
        }
        let server = server
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut this = Self {
            server,
            folder,
            programs,
            port,
            as_other,
        };
        let ready = this.folder.path().join(format!(".s.PGSQL.{port}"));
        wait::until("PostgreSQL is up", START, || {
            let ended = this.server.try_wait().ok().flatten().is_some();
            (ended || (ready.exists() && this.accepts())).then_some(())
        })?;
        ensure!(this.accepts(), "{}", this.log());
        Ok(this)
    }

    fn accepts(&self) -> bool {
        std::process::Command::new(self.programs.join("pg_isready"))
            .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()])
            .status()
            .is_ok_and(|status| status.success())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The address of a new, empty database.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn database(&self, name: &str) -> String {
        let made = command(&self.programs.join("createdb"), self.as_other)
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-U",
                "slipway",
                name,
            ])
            .output();
        match made {
            Ok(made) if made.status.success() => {}
            Ok(made) => panic!("createdb: {}", String::from_utf8_lossy(&made.stderr)),
            Err(error) => panic!("createdb: {error}"),
        }
        format!("postgres://slipway@127.0.0.1:{}/{name}", self.port)
    }

    /// What a statement answers, one line per row, columns between `|`.
    ///
    /// # Panics
    /// When the statement fails.
    #[must_use]
    pub fn query(&self, database: &str, statement: &str) -> String {
        let asked = Command::new(self.programs.join("psql"))
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-U",
                "slipway",
            ])
            .args(["-d", database, "-v", "ON_ERROR_STOP=1", "-Atqc", statement])
            .output();
        match asked {
            Ok(asked) if asked.status.success() => {
                String::from_utf8_lossy(&asked.stdout).trim().to_owned()
            }
            Ok(asked) => panic!("psql: {}", String::from_utf8_lossy(&asked.stderr)),
            Err(error) => panic!("psql: {error}"),
        }
    }
}

impl Postgres {
    /// A second server that follows this one, and confirms every commit before it is one.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn standby(&self) -> Self {
        match self.follow() {
            Ok(standby) => standby,
            Err(error) => panic!("no standby: {error:#}"),
        }
    }

    fn follow(&self) -> anyhow::Result<Self> {
        let folder = folder()?;
        let data = folder.path().join("data");
        let copied = command(&self.programs.join("pg_basebackup"), self.as_other)
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(["-U", "slipway", "-R", "-X", "stream", "-c", "fast", "-D"])
            .arg(&data)
            .output()?;
        let complaint = String::from_utf8_lossy(&copied.stderr).into_owned();
        ensure!(copied.status.success(), "pg_basebackup: {complaint}");
        let programs = self.programs.clone();
        let standby = Self::serve(folder, programs, &["fsync=off", "hot_standby=on"])?;
        for setting in [
            "ALTER SYSTEM SET synchronous_standby_names = '*'",
            "SELECT pg_reload_conf()",
        ] {
            let _done = self.query("postgres", setting);
        }
        let confirms = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        wait::until("the standby confirms commits", START, || {
            (self.query("postgres", confirms) == "1").then_some(())
        })?;
        Ok(standby)
    }

    /// From now on it takes writes, and needs nobody's confirmation.
    ///
    /// # Panics
    /// When it does not.
    pub fn promote(&self) {
        let done = self.query("postgres", "SELECT pg_promote(true, 30)");
        assert_eq!(done, "t", "it was not promoted");
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Everything of it stops where it is, as on a machine that swaps or whose disk hangs: connections stay open
    /// and nobody answers.
    ///
    /// # Panics
    /// When there is no `pkill`.
    pub fn stall(&self) {
        // The parent first: it starts no more children then.
        self.signal_all("STOP");
    }

    /// It goes on where it was.
    ///
    /// # Panics
    /// When there is no `pkill`.
    pub fn go_on(&self) {
        self.signal_all("CONT");
    }

    fn signal_all(&self, signal: &str) {
        let parent = self.server.id().to_string();
        let signal = format!("-{signal}");
        let own = Command::new("kill").args([&signal, &parent]).status();
        let children = Command::new("pkill")
            .args([&signal, "-P", &parent])
            .status();
        assert!(own.is_ok() && children.is_ok(), "kill and pkill are there");
    }

    /// `kill -9` of the server and everything it started.
    ///
    /// # Panics
    /// When there is no `pkill`.
    pub fn kill(&mut self) {
        let parent = self.server.id().to_string();
        // The children first: an orphan would finish its commit.
        let killed = Command::new("pkill")
            .args(["-KILL", "-P", &parent])
            .status();
        assert!(killed.is_ok(), "pkill is there");
        let _gone = self.server.kill();
        let _reaped = self.server.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT: at once. The folder goes as well.
        let pid = self.server.id().to_string();
        let _gone = Command::new("kill").args(["-QUIT", &pid]).status();
        let _reaped = self.server.wait();
    }
}

/// A folder of the server's own.
fn folder() -> anyhow::Result<tempfile::TempDir> {
    let folder = tempfile::Builder::new()
        .prefix("slipway-pg")
        .tempdir_in("/tmp")?;
    if is_root() {
        let owner = Command::new("chown")
            .arg("postgres")
            .arg(folder.path())
            .status()?;
        ensure!(owner.success(), "the folder cannot be given to `postgres`");
    }
    Ok(folder)
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt as _;
        own.uid() == 0
    })
}

/// PostgreSQL refuses to be root.
fn command(program: &Path, as_other: bool) -> Command {
    if !as_other {
        return Command::new(program);
    }
    let mut other = Command::new("setpriv");
    other.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    other.arg(program).current_dir("/");
    other
}
