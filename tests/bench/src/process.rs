//! Processes of the real binary, and how much memory they take.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

/// A process; killed on drop.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a role with the settings of a file; what it says goes beside that file.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(binary: &Path, role: &str, config: &Path) -> anyhow::Result<Self> {
        let log = std::fs::File::create(config.with_extension("log"))?;
        let child = Command::new(binary)
            .arg(role)
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| binary.display().to_string())?;
        Ok(Self { child })
    }

    /// Resident memory now, MiB.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident(&self) -> anyhow::Result<f64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).context(path)?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let kib = line.and_then(|l| l.trim().strip_suffix(" kB"));
        let kib: f64 = kib
            .context("no VmRSS: the process has ended")?
            .trim()
            .parse()?;
        Ok(kib / 1_024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}
