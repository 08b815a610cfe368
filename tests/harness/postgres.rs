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
        let folder = tempfile::Builder::new()
            .prefix("slipway-pg")
            .tempdir_in("/tmp")?;
        let as_other = is_root();
        if as_other {
            let owner = Command::new("chown")
                .arg("postgres")
                .arg(folder.path())
                .status()?;
            ensure!(owner.success(), "the folder cannot be given to `postgres`");
        }
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
        let port = wait::free_address()?.port();
        let log = std::fs::File::create(folder.path().join("log"))?;
        // Durability is what other tests are about; here the engine's SQL is.
        let server = command(&programs.join("postgres"), as_other)
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(folder.path())
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args([
                "-c",
                "fsync=off",
                "-c",
                "max_connections=120",
                "-c",
                "shared_buffers=32MB",
            ])
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

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT: at once. The folder goes as well.
        let pid = self.server.id().to_string();
        let _gone = Command::new("kill").args(["-QUIT", &pid]).status();
        let _reaped = self.server.wait();
    }
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
