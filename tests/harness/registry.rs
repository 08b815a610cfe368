//! An image registry of a test's own, gone on drop.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::require::require;
use crate::wait;

const START: Duration = Duration::from_secs(20);

/// A running registry.
pub struct ImageRegistry {
    server: Child,
    _folder: tempfile::TempDir,
    /// Where it listens.
    pub address: SocketAddr,
}

impl ImageRegistry {
    /// Starts one, or `None` where none is installed.
    ///
    /// # Panics
    /// When it is installed and does not start.
    #[must_use]
    pub fn start() -> Option<Self> {
        let program = require("registry")?.program;
        match Self::create(&program) {
            Ok(server) => Some(server),
            Err(error) => panic!("the image registry does not start: {error:#}"),
        }
    }

    fn create(program: &std::path::Path) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let address = wait::free_address()?;
        let settings = folder.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    \
             rootdirectory: {}\nhttp:\n  addr: {address}\n",
            folder.path().join("images").display()
        );
        std::fs::write(&settings, text)?;
        let server = Command::new(program)
            .arg("serve")
            .arg(&settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let this = Self {
            server,
            _folder: folder,
            address,
        };
        wait::until("the image registry is up", START, || {
            TcpStream::connect(address).is_ok().then_some(())
        })?;
        Ok(this)
    }
}

impl Drop for ImageRegistry {
    fn drop(&mut self) {
        let _gone = self.server.kill();
        let _reaped = self.server.wait();
    }
}
