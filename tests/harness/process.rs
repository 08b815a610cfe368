//! Real processes of the real binary, which can be killed in the middle of anything.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// One process; killed on drop.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `binary` with these arguments and settings; its output goes to `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(binary: &Path, args: &[&str], settings: &[(&str, String)], log: &Path) -> Self {
        let started = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .and_then(|file| {
                let mut command = Command::new(binary);
                command.args(args).stdin(Stdio::null());
                for (name, value) in settings {
                    command.env(name, value);
                }
                command.stdout(file.try_clone()?).stderr(file).spawn()
            });
        match started {
            Ok(child) => Self {
                child,
                log: log.to_owned(),
            },
            Err(error) => panic!("{} {args:?}: {error}", binary.display()),
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name.
    ///
    /// # Panics
    /// When there is no `kill`.
    pub fn signal(&self, name: &str) {
        let pid = self.id().to_string();
        if let Err(error) = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status()
        {
            panic!("kill: {error}");
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }

    /// Whether it goes on.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it printed.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(25).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            let text = format!("── {}\n{}\n", self.log.display(), tail.join("\n"));
            let _closed = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
        }
    }
}
