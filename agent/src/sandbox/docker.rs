//! Stages in Docker. One container per attempt, with a network of its own when it has services;
//! everything carries this installation's labels, and is found again by them.

mod networks;
mod outage;
mod services;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use slipway_core::pipeline::Sandbox as Profile;
use slipway_daemon::Rng;
use slipway_docker::labels::{ATTEMPT, INSTALL, PURPOSE, STAGE};
use slipway_docker::{
    BuildRequest, ContainerSpec, Credentials, DockerError, Engine, EngineFacts, GVISOR, LogDriver,
    MountSpec,
};
use slipway_proto::convert::AttemptKey;
use tokio::sync::{OnceCell, mpsc};

pub use networks::SHARED;

use super::deny_list::Opening;
use super::doors::{self, Gateway};
use super::profile::{Confinement, confine};
use super::{Ended, EngineSaid, ImageMade, ImageRun, Sandbox, SandboxError, StageRun};

/// Longest pull.
const PULL_LIMIT: Duration = Duration::from_secs(900);
/// Longest push.
const PUSH_LIMIT: Duration = Duration::from_secs(900);
/// Output that the engine keeps of one stage: the log's own limit, and room.
const OUTPUT_KEPT: u64 = 300 * 1024 * 1024;

/// Logins by image registry host.
pub type Logins =
    Arc<dyn Fn(&str) -> futures::future::BoxFuture<'static, Option<Credentials>> + Send + Sync>;

/// The adapter.
#[derive(Clone)]
pub struct DockerSandbox {
    engine: Engine,
    install: String,
    rng: Rng,
    logins: Logins,
    memory: Option<u64>,
    /// What stages may reach beyond the deny list.
    opening: Option<Opening>,
    /// As long as the engine has not been away.
    facts: Arc<Mutex<Option<EngineFacts>>>,
    /// Whether the shared network was made sure of.
    shared: Arc<OnceCell<()>>,
}

#[expect(clippy::needless_pass_by_value, reason = "map_err's shape")]
fn failed(error: DockerError) -> SandboxError {
    SandboxError::Engine(error.to_string())
}

/// A build that broke off with its engine is not the user's failure.
fn build_failed(what: &str, error: &DockerError) -> SandboxError {
    if error.is_away() {
        SandboxError::Engine(error.to_string())
    } else {
        SandboxError::Build(format!("{what} failed: {error}"))
    }
}

impl DockerSandbox {
    /// Over an engine. `install` names whose containers these are: the agent's id.
    #[must_use]
    pub fn new(engine: Engine, install: String, rng: Rng, logins: Logins) -> Self {
        Self {
            engine,
            install,
            rng,
            logins,
            memory: None,
            opening: None,
            facts: Arc::default(),
            shared: Arc::default(),
        }
    }

    /// No container gets more memory than this, whatever its profile says.
    #[must_use]
    pub fn with_memory(mut self, bytes: Option<u64>) -> Self {
        self.memory = bytes;
        self
    }

    /// Stages may reach what this opens.
    #[must_use]
    pub(crate) fn with_opening(mut self, opening: Option<Opening>) -> Self {
        self.opening = opening;
        self
    }

    fn confine(&self, profile: Profile) -> Confinement {
        let mut confinement = confine(profile);
        let limits = &mut confinement.limits;
        limits.memory_bytes = self
            .memory
            .map_or(limits.memory_bytes, |most| most.min(limits.memory_bytes));
        confinement
    }

    async fn facts(&self) -> Result<EngineFacts, SandboxError> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let facts = self.engine.facts().await.map_err(failed)?;
        let mut known = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(known.insert(facts).clone())
    }

    fn known(&self) -> Option<EngineFacts> {
        let known = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    fn forget_facts(&self) {
        let mut known = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        *known = None;
    }

    /// Code from outside gets a kernel of its own where this host has one (gVisor).
    async fn runtime(&self, profile: Profile) -> Result<Option<String>, SandboxError> {
        let has = self.facts().await?.gvisor;
        Ok((profile == Profile::Strict && has).then(|| GVISOR.to_owned()))
    }

    fn labels(&self, key: &AttemptKey, purpose: &str) -> BTreeMap<String, String> {
        BTreeMap::from([
            (INSTALL.to_owned(), self.install.clone()),
            (STAGE.to_owned(), key.stage.to_string()),
            (ATTEMPT.to_owned(), key.attempt.to_string()),
            (PURPOSE.to_owned(), purpose.to_owned()),
        ])
    }

    /// What was asked for must be in force, or nothing is executed.
    pub(super) async fn check_confined(
        &self,
        id: &str,
        spec: &ContainerSpec,
    ) -> Result<(), SandboxError> {
        let view = self.engine.inspect_container(id).await.map_err(failed)?;
        let got = &view.in_force;
        let mut wrong = Vec::new();
        if got.privileged {
            wrong.push("privileged");
        }
        if got.limits.memory_bytes != spec.limits.memory_bytes {
            wrong.push("memory");
        }
        if got.limits.pids != spec.limits.pids {
            wrong.push("pids");
        }
        if !got.security.cap_drop.iter().any(|cap| cap == "ALL") {
            wrong.push("capabilities");
        }
        if got.security.read_only_root != spec.security.read_only_root {
            wrong.push("read-only root");
        }
        if !got
            .security
            .options
            .iter()
            .any(|o| o.starts_with("no-new-privileges"))
        {
            wrong.push("no-new-privileges");
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(SandboxError::NotConfined(wrong.join(", ")))
        }
    }

    async fn push(
        &self,
        image: &ImageRun,
        printed: &mpsc::Sender<Vec<u8>>,
    ) -> Result<String, SandboxError> {
        let mut digest = String::new();
        for tag in &image.tags {
            let (repository, version) = split_tag(tag);
            let login = (self.logins)(host_of(tag)).await;
            digest = self
                .engine
                .push_image(repository, version, login.as_ref(), PUSH_LIMIT, |line| {
                    let _full = printed.try_send(format!("{line}\n").into_bytes());
                })
                .await
                .map_err(|e| build_failed(&format!("pushing {tag}"), &e))?;
        }
        Ok(digest)
    }
}

/// The name of everything of an attempt: ids of ours and nothing else.
fn name(key: &AttemptKey) -> String {
    format!("slipway-{}-{}", key.stage, key.attempt).to_lowercase()
}

/// Which attempt a name of ours belongs to.
fn key_in(name: &str) -> Option<AttemptKey> {
    let (stage, attempt) = name.strip_prefix("slipway-")?.rsplit_once('-')?;
    Some(AttemptKey {
        stage: stage.to_uppercase().parse().ok()?,
        attempt: attempt.parse().ok()?,
    })
}

fn key_of(labels: &BTreeMap<String, String>) -> Option<AttemptKey> {
    Some(AttemptKey {
        stage: labels.get(STAGE)?.parse().ok()?,
        attempt: labels.get(ATTEMPT)?.parse().ok()?,
    })
}

fn stage_name(key: &AttemptKey) -> String {
    format!("{}-stage", name(key))
}

/// `repository` and `tag` of a reference.
fn split_tag(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (reference, "latest"),
    }
}

/// The image registry of a reference; empty = the engine's default one.
fn host_of(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "",
    }
}

#[async_trait]
impl Sandbox for DockerSandbox {
    async fn engine(&self) -> Result<EngineSaid, SandboxError> {
        let facts = self.facts().await?;
        Ok(EngineSaid {
            version: facts.version.clone(),
            buildkit: facts.buildkit,
            reproducible_images: facts.reproducible_images,
            user_namespaces: facts.user_namespaces,
        })
    }

    async fn answers(&self) -> Result<(), SandboxError> {
        self.engine.ping().await.map_err(failed)
    }

    async fn gone(&self) {
        self.seen_going().await;
        self.forget_facts();
    }

    async fn ensure_image(&self, image: &str) -> Result<(), SandboxError> {
        match self.engine.inspect_image(image).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(failed(error)),
        }
        let login = (self.logins)(host_of(image)).await;
        self.engine
            .pull_image(image, login.as_ref(), PULL_LIMIT, |_| {})
            .await
            .map_err(|error| SandboxError::Image {
                image: image.to_owned(),
                reason: error.to_string(),
            })
    }

    async fn create(&self, run: &StageRun) -> Result<(), SandboxError> {
        let confinement = self.confine(run.profile);
        let network = self.network(run).await?;
        let services = run
            .services
            .iter()
            .map(|(service, variables)| self.service(run, service, variables));
        futures::future::try_join_all(services).await?;
        let spec = ContainerSpec {
            name: stage_name(&run.key),
            image: run.image.clone(),
            entrypoint: Some(vec!["sh".to_owned(), "-c".to_owned()]),
            command: vec![run.script.clone()],
            env: run.environment.clone(),
            labels: self.labels(&run.key, "stage"),
            workdir: Some("/workspace".to_owned()),
            user: confinement.user,
            limits: confinement.limits,
            security: confinement.security,
            mounts: vec![MountSpec::Bind {
                source: run.workspace.display().to_string(),
                target: "/workspace".to_owned(),
                read_only: false,
            }],
            tmpfs: confinement.tmpfs,
            runtime: self.runtime(run.profile).await?,
            network,
            log: LogDriver::Local {
                max_bytes: OUTPUT_KEPT,
            },
            ..ContainerSpec::default()
        };
        let id = self.engine.create_container(&spec).await.map_err(failed)?;
        self.check_confined(&id, &spec).await
    }

    async fn gateway(&self, run: &StageRun) -> Result<Option<Gateway>, SandboxError> {
        self.gateway_of(run).await
    }

    async fn let_in(&self, gateway: &Gateway, at: SocketAddr) -> anyhow::Result<()> {
        doors::let_in(gateway, at).await
    }

    async fn keep_out(&self, gateway: &Gateway, at: SocketAddr) -> anyhow::Result<()> {
        doors::keep_out(gateway, at).await
    }

    async fn start(&self, key: &AttemptKey) -> Result<(), SandboxError> {
        let name = stage_name(key);
        match self.engine.start_container(&name).await {
            // Somebody pruned networks between two stages.
            Err(error) if error.is_not_found() => {
                self.make_shared().await?;
                self.engine.start_container(&name).await.map_err(failed)
            }
            outcome => outcome.map_err(failed),
        }
    }

    fn output(&self, key: &AttemptKey) -> BoxStream<'static, Result<Bytes, SandboxError>> {
        self.engine
            .follow_logs(&stage_name(key))
            .map(|item| item.map(|(_, bytes)| bytes).map_err(failed))
            .boxed()
    }

    async fn written(&self, key: &AttemptKey) -> Result<u64, SandboxError> {
        let written = self.engine.written_bytes(&stage_name(key)).await;
        written.map_err(failed)
    }

    async fn wait(&self, key: &AttemptKey) -> Result<Ended, SandboxError> {
        self.ended(key).await
    }

    async fn stop(&self, key: &AttemptKey, grace: Duration) -> Result<(), SandboxError> {
        self.end(key, grace).await
    }

    async fn remove(&self, key: &AttemptKey) -> Result<(), SandboxError> {
        let attempt = key.attempt.to_string();
        let own = [
            (INSTALL, self.install.as_str()),
            (STAGE, key.stage.as_str()),
            (ATTEMPT, attempt.as_str()),
        ];
        let containers = self.engine.list_containers(&own).await.map_err(failed)?;
        for container in &containers {
            self.engine
                .remove_container(&container.id)
                .await
                .map_err(failed)?;
        }
        // Asked for, not guessed from the containers: the agent may have died between the two.
        for network in self.engine.list_networks(&own).await.map_err(failed)? {
            self.engine.remove_network(&network).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn held(&self) -> Result<Vec<AttemptKey>, SandboxError> {
        let own = [(INSTALL, self.install.as_str()), (PURPOSE, "stage")];
        let containers = self.engine.list_containers(&own).await.map_err(failed)?;
        let started = containers.into_iter().filter(|c| c.started);
        Ok(started.filter_map(|c| key_of(&c.labels)).collect())
    }

    async fn remains(&self) -> Result<Vec<AttemptKey>, SandboxError> {
        let own = [(INSTALL, self.install.as_str())];
        let containers = self.engine.list_containers(&own).await.map_err(failed)?;
        let networks = self.engine.list_networks(&own).await.map_err(failed)?;
        let mut keys: Vec<_> = containers
            .iter()
            .filter_map(|c| key_of(&c.labels))
            .collect();
        keys.extend(networks.iter().filter_map(|network| key_in(network)));
        keys.sort();
        keys.dedup();
        Ok(keys)
    }

    async fn build(
        &self,
        image: &ImageRun,
        printed: mpsc::Sender<Vec<u8>>,
    ) -> Result<ImageMade, SandboxError> {
        let facts = self.facts().await?;
        let first = image
            .tags
            .first()
            .ok_or_else(|| SandboxError::Build("the image has no tag".to_owned()))?;
        let mut credentials = BTreeMap::new();
        for tag in &image.tags {
            if let Some(login) = (self.logins)(host_of(tag)).await {
                credentials.insert(host_of(tag).to_owned(), login);
            }
        }
        let request = BuildRequest {
            context: image.context.clone(),
            dockerfile: image.dockerfile.clone(),
            tag: first.clone(),
            args: image.args.clone(),
            cache_namespace: image.project.clone(),
            // None: whatever differs between two builds of one commit would change the digest.
            labels: BTreeMap::new(),
            source_date_epoch: image.epoch,
            platform: image.platform.clone(),
            credentials,
            session: hex::encode(self.rng.bytes::<16>()),
            limit: image.limit,
        };
        let built = self
            .engine
            .build_image(&request, &facts, |bytes| {
                // The callback cannot wait: a reader far behind loses lines of the builder.
                let _full = printed.try_send(bytes.to_vec());
            })
            .await
            .map_err(|e| build_failed("the build", &e))?;
        for tag in image.tags.iter().skip(1) {
            let (repository, version) = split_tag(tag);
            self.engine
                .tag_image(first, repository, version)
                .await
                .map_err(failed)?;
        }
        let digest = if image.push {
            self.push(image, &printed).await?
        } else {
            built.id.clone()
        };
        Ok(ImageMade {
            repository: split_tag(first).0.to_owned(),
            digest,
            reproducible: built.reproducible,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_split_at_its_tag_and_not_at_its_port() {
        assert_eq!(
            split_tag("127.0.0.1:5000/shop:abc"),
            ("127.0.0.1:5000/shop", "abc")
        );
        assert_eq!(
            split_tag("127.0.0.1:5000/shop"),
            ("127.0.0.1:5000/shop", "latest")
        );
        assert_eq!(host_of("127.0.0.1:5000/shop:abc"), "127.0.0.1:5000");
        assert_eq!(host_of("busybox:1"), "");
        assert_eq!(host_of("library/busybox:1"), "");
    }
}
