//! A PostgreSQL of our own, in a temporary folder, for as long as it is held.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};

/// A running server.
pub struct Postgres {
    dir: tempfile::TempDir,
    child: Child,
    port: u16,
}

/// The folder of the server's binaries.
fn binaries() -> anyhow::Result<PathBuf> {
    let found = Command::new("sh")
        .args([
            "-c",
            "command -v initdb || ls /usr/lib/postgresql/*/bin/initdb | tail -n 1",
        ])
        .output()?;
    let path = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    let path = Path::new(&path)
        .canonicalize()
        .context("no initdb; `make setup` installs it")?;
    Ok(path.parent().context("no folder")?.to_owned())
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|out| out.stdout.starts_with(b"0\n"))
}

/// The server refuses to be root; a process of root's lends itself to somebody else.
fn command(program: &Path) -> Command {
    if is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(program);
        command
    } else {
        Command::new(program)
    }
}

impl Postgres {
    /// Makes and starts a server with durable commits.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let data = dir.path().join("data");
        std::fs::create_dir(&data)?;
        if is_root() {
            for path in [dir.path(), &data] {
                std::os::unix::fs::chown(path, Some(65_534), Some(65_534))?;
            }
        }
        let bin = binaries()?;
        let made = command(&bin.join("initdb"))
            .args([
                "-A",
                "trust",
                "-U",
                "slipway",
                "-E",
                "UTF8",
                "--no-locale",
                "-D",
            ])
            .arg(&data)
            .current_dir(dir.path())
            .output()?;
        ensure!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        let child = command(&bin.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .arg("-c")
            .arg(format!("unix_socket_directories={}", dir.path().display()))
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let server = Self { dir, child, port };
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .is_ok()
            {
                tokio::time::sleep(Duration::from_millis(300)).await;
                return Ok(server);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!(
            "PostgreSQL did not start in {}",
            server.dir.path().display()
        )
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> String {
        format!("postgres://slipway@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGINT: a fast shutdown, so that the folder can go.
        let pid = self.child.id().to_string();
        let _gone_already = Command::new("kill").args(["-INT", &pid]).status();
        let _reaped = self.child.wait();
    }
}
