//! A handle to one engine, and what is known about it.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use bollard::Docker;
use serde::{Deserialize, Serialize};

use crate::DockerError;

/// For calls that change nothing or little.
pub(crate) const SHORT: Duration = Duration::from_secs(30);
/// For asking whether anybody is there at all.
const ALIVE: Duration = Duration::from_secs(5);
/// For calls that may wait for the disk: create, remove, start.
pub(crate) const LONG: Duration = Duration::from_secs(120);
/// Seconds that bollard itself allows a call until its answer begins; above all of ours, which are
/// the ones that count.
const TRANSPORT_LIMIT_S: u64 = 3_600;

/// A connection to an engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) docker: Docker,
    /// Where it is.
    place: Place,
}

#[derive(Clone)]
enum Place {
    /// A socket; `None` = the usual one.
    Socket(Option<String>),
    /// Another host.
    Remote(String, TlsFiles),
}

/// Files of one engine's mutual TLS, PEM: the names that `docker --tlscacert …` uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The authority that the engine's certificate is signed by.
    pub ca: PathBuf,
    /// Our certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// gVisor's name among an engine's runtimes.
pub const GVISOR: &str = "runsc";

/// What an engine says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineFacts {
    /// Version, e.g. `26.1.5`.
    pub version: String,
    /// Version of the API spoken.
    pub api_version: String,
    /// `amd64`, `arm64` …
    pub architecture: String,
    /// Whether builds can use BuildKit.
    pub buildkit: bool,
    /// Whether the same input gives the same image digest (containerd image store and BuildKit).
    pub reproducible_images: bool,
    /// Whether user namespaces are remapped, or the engine is rootless.
    pub user_namespaces: bool,
    /// Whether containers can get a kernel of their own (gVisor's `runsc`).
    pub gvisor: bool,
    /// Whether containers go on while the engine is away.
    pub live_restore: bool,
    /// Whether AppArmor profiles are available.
    pub apparmor: bool,
    /// Whether process limits are enforced.
    pub pids_limit: bool,
    /// Whether the size of swap is enforced.
    pub swap_limit: bool,
}

impl Engine {
    /// Connects to the engine at `socket` (a path), or at the usual place (`DOCKER_HOST` included).
    ///
    /// # Errors
    /// When the address cannot be used. Whether somebody answers is seen at the first call.
    pub fn connect(socket: Option<&str>) -> Result<Self, DockerError> {
        let docker = match socket {
            Some(path) => {
                Docker::connect_with_unix(path, TRANSPORT_LIMIT_S, bollard::API_DEFAULT_VERSION)
            }
            None => Docker::connect_with_local_defaults()
                .map(|d| d.with_timeout(Duration::from_secs(TRANSPORT_LIMIT_S))),
        }
        .map_err(DockerError::Unreachable)?;
        Ok(Self {
            docker,
            place: Place::Socket(socket.map(str::to_owned)),
        })
    }

    /// The engine of another host, at `tcp://host:port`, over mutual TLS. Needs the process's TLS provider to be
    /// installed.
    ///
    /// # Errors
    /// When the address or a file cannot be used.
    pub fn connect_tls(address: &str, files: &TlsFiles) -> Result<Self, DockerError> {
        let TlsFiles { ca, cert, key } = files;
        let version = bollard::API_DEFAULT_VERSION;
        let docker = Docker::connect_with_ssl(address, key, cert, ca, TRANSPORT_LIMIT_S, version);
        Ok(Self {
            docker: docker.map_err(DockerError::Unreachable)?,
            place: Place::Remote(address.to_owned(), files.clone()),
        })
    }

    /// Connects and agrees on an API version that both sides speak.
    ///
    /// # Errors
    /// When no engine answers.
    pub async fn open(socket: Option<&str>) -> Result<Self, DockerError> {
        let engine = Self::connect(socket)?;
        let docker = within("version", SHORT, engine.docker.clone().negotiate_version()).await?;
        Ok(Self { docker, ..engine })
    }

    /// Asks whether the engine is alive, over a connection that may be an old one.
    ///
    /// # Errors
    /// When it is not.
    pub async fn ping(&self) -> Result<(), DockerError> {
        within("ping", ALIVE, self.docker.ping()).await.map(drop)
    }

    /// Asks whether the engine takes new calls. One that is stopping answers on old connections, and
    /// refuses new ones.
    ///
    /// # Errors
    /// When it does not.
    pub async fn knock(&self) -> Result<(), DockerError> {
        let fresh = match &self.place {
            Place::Socket(socket) => Self::connect(socket.as_deref()),
            Place::Remote(address, files) => Self::connect_tls(address, files),
        };
        fresh?.ping().await
    }

    /// What the engine says about itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn facts(&self) -> Result<EngineFacts, DockerError> {
        let version = within("version", SHORT, self.docker.version()).await?;
        let info = within("info", SHORT, self.docker.info()).await?;
        let number = info.server_version.unwrap_or_default();
        let major = major(&number);
        let containerd_store = info.driver_status.iter().flatten().any(|pair| {
            pair.iter()
                .any(|v| v.starts_with("io.containerd.snapshotter"))
        });
        let options = info.security_options.unwrap_or_default();
        let has = |name: &str| options.iter().any(|o| o.contains(name));
        // BuildKit is the engine's default builder from 23 on; rewriting timestamps came with 25.
        Ok(EngineFacts {
            buildkit: major >= 20,
            reproducible_images: containerd_store && major >= 25,
            user_namespaces: has("name=userns") || has("name=rootless"),
            gvisor: info
                .runtimes
                .is_some_and(|runtimes| runtimes.contains_key(GVISOR)),
            apparmor: has("name=apparmor"),
            live_restore: info.live_restore_enabled.unwrap_or(false),
            pids_limit: info.pids_limit.unwrap_or(false),
            swap_limit: info.swap_limit.unwrap_or(false),
            api_version: version.api_version.unwrap_or_default(),
            architecture: version.arch.unwrap_or_default(),
            version: number,
        })
    }
}

fn major(version: &str) -> u32 {
    version
        .split('.')
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// Gives `future` at most `limit`.
pub(crate) async fn within<T, F>(
    call: &'static str,
    limit: Duration,
    future: F,
) -> Result<T, DockerError>
where
    F: Future<Output = Result<T, bollard::errors::Error>>,
{
    match tokio::time::timeout(limit, future).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(DockerError::from_call(call, error)),
        Err(_) => Err(DockerError::Deadline { call, limit }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_makes_no_sense_counts_as_old() {
        assert_eq!(major("26.1.5+dfsg1"), 26);
        assert_eq!(major(""), 0);
        assert_eq!(major("dev"), 0);
    }
}
