//! A chart of a commit → the text of its objects, by `helm template`.
//!
//! Templates are the repository's code, so they are given nothing: the chart is written out of the object
//! database into a new folder (plain files only, no link that leads elsewhere), helm gets an empty
//! environment, a home of its own, no cluster, no plugins and no repositories, and limits of time, memory and
//! output. Its templates can read the chart alone, `lookup` finds nothing and names are not resolved. A
//! chart's own schema of its values is not looked at, because it may name addresses and files that helm would
//! fetch. Rendering happens once, where the pipeline file is read: what is stored, approved and gone back to is
//! the text, and no other machine needs helm.

use std::path::{Component, Path};
use std::process::Stdio;
use std::time::Duration;

use slipway_core::manifest::TEXT_MAX;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

/// One rendering.
const LIMIT: Duration = Duration::from_secs(20);
/// Renderings at once: each may take the memory below.
static AT_ONCE: Semaphore = Semaphore::const_new(2);
/// Seconds of processor, KiB of address space, and blocks of 512 bytes of one file.
const LIMITS: &str = "ulimit -t 20 && ulimit -v 4194304 && ulimit -f 16384 && exec \"$@\"";
/// What helm says of a failure.
const SAID_MAX: u64 = 4_096;
/// And as much of it as a person reads.
const SHOWN_MAX: usize = 800;

/// A chart as the commit has it.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// What templates see as the release.
    pub release: String,
    /// What they see as their namespace; empty = `default`.
    pub namespace: String,
    /// Its files, by their path in it.
    pub files: Vec<(String, Vec<u8>)>,
    /// Files with values; later ones win.
    pub values: Vec<Vec<u8>>,
    /// Values that win over all of them: a map, or null.
    pub set: serde_json::Value,
}

/// Why a chart was not rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// There is no helm.
    #[error(
        "`{0}` is not installed where the dispatcher is; install helm 3.16 or newer there (it is one file), or set \
         `helm` in the dispatcher's settings to its path"
    )]
    NoHelm(String),
    /// A file of it cannot be written out.
    #[error("its file `{0}` cannot be used: a chart has plain relative paths")]
    Path(String),
    /// Helm refused.
    #[error("helm template: {0}")]
    Refused(String),
    /// A limit.
    #[error("{0}")]
    Limit(String),
    /// The machine's own trouble.
    #[error("cannot render: {0}")]
    Io(#[from] std::io::Error),
}

/// Renders a chart.
///
/// # Errors
/// When there is no helm, when it refuses, and when a limit is passed.
pub async fn render(helm: &str, chart: &Chart) -> Result<String, ChartError> {
    let _permit = AT_ONCE.acquire().await;
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("chart");
    for (path, bytes) in &chart.files {
        let inside = Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !inside {
            return Err(ChartError::Path(path.clone()));
        }
        let at = root.join(path);
        if let Some(parent) = at.parent() {
            tokio::fs::create_dir_all(parent).await?;
        }
        tokio::fs::write(at, bytes).await?;
    }
    let mut command = command(helm, folder.path(), chart);
    let mut set = Vec::new();
    if chart.set.is_object() {
        set.push(chart.set.to_string().into_bytes());
    }
    for (number, bytes) in chart.values.iter().chain(&set).enumerate() {
        let at = folder.path().join(format!("values-{number}.yaml"));
        tokio::fs::write(&at, bytes).await?;
        command.arg("--values").arg(at);
    }
    let child = command.spawn()?;
    match tokio::time::timeout(LIMIT, output(child, helm)).await {
        Ok(text) => text,
        Err(_) => Err(ChartError::Limit(format!(
            "rendering took longer than {} s",
            LIMIT.as_secs()
        ))),
    }
}

fn command(helm: &str, folder: &Path, chart: &Chart) -> Command {
    let namespace = match chart.namespace.as_str() {
        "" => "default",
        other => other,
    };
    let home = folder.join("home");
    let mut command = Command::new("/bin/sh");
    command
        .args([
            "-c",
            LIMITS,
            "sh",
            helm,
            "template",
            &chart.release,
            "./chart",
        ])
        .args(["--namespace", namespace])
        // Hooks and tests would be executed by nobody; see above for schemas.
        .args(["--no-hooks", "--skip-tests", "--skip-schema-validation"])
        .current_dir(folder)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", &home)
        .env("HELM_CACHE_HOME", home.join("cache"))
        .env("HELM_CONFIG_HOME", home.join("config"))
        .env("HELM_DATA_HOME", home.join("data"))
        .env("HELM_PLUGINS", home.join("plugins"))
        .env("KUBECONFIG", "/nonexistent")
        .env("TMPDIR", folder)
        .env("GOMEMLIMIT", "512MiB")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn output(mut child: Child, helm: &str) -> Result<String, ChartError> {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let limit = u64::try_from(TEXT_MAX).unwrap_or(u64::MAX) + 1;
    let (mut text, mut said) = (Vec::new(), Vec::new());
    let reading = async {
        if let Some(out) = out {
            out.take(limit).read_to_end(&mut text).await?;
        }
        // What is closed here ends a writer that has more to say.
        std::io::Result::Ok(())
    };
    let listening = async {
        if let Some(err) = err {
            err.take(SAID_MAX).read_to_end(&mut said).await?;
        }
        std::io::Result::Ok(())
    };
    let (read, heard) = tokio::join!(reading, listening);
    read?;
    heard?;
    if text.len() > TEXT_MAX {
        let text = format!("it renders to more than {TEXT_MAX} bytes");
        return Err(ChartError::Limit(text));
    }
    let status = child.wait().await?;
    if status.success() {
        let not_text = |_| ChartError::Refused("it renders to something that is no text".into());
        return String::from_utf8(text).map_err(not_text);
    }
    if matches!(status.code(), Some(126 | 127)) {
        return Err(ChartError::NoHelm(helm.to_owned()));
    }
    let said = String::from_utf8_lossy(&said);
    let plain = said.chars().map(|c| if c.is_control() { ' ' } else { c });
    let shown: String = plain.take(SHOWN_MAX).collect();
    Err(ChartError::Refused(shown.trim().to_owned()))
}

#[cfg(test)]
mod tests;
