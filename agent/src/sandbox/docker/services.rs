//! Services of a stage: started beside it, in its network, and waited for.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use slipway_core::pipeline::{Sandbox as Profile, ServiceSpec};
use slipway_docker::{ContainerSpec, ContainerState, DockerError, LogDriver, NetworkSpec};

use super::{DockerSandbox, failed, name};
use crate::sandbox::{SandboxError, StageRun};

/// How long a service may take to become ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at a service.
const READY_EVERY: Duration = Duration::from_millis(250);
/// Longest reading of what an ended service has printed.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Characters of a service's words in an error.
const WORDS_MAX: usize = 300;

impl DockerSandbox {
    /// Starts a service and waits until its own check says that it is ready.
    pub(super) async fn service(
        &self,
        run: &StageRun,
        service: &ServiceSpec,
        variables: &BTreeMap<String, String>,
    ) -> Result<(), SandboxError> {
        let confinement = self.confine(Profile::Standard);
        let spec = ContainerSpec {
            name: format!("{}-{}", name(&run.key), service.name),
            image: service.image.clone(),
            command: service.command.clone(),
            env: variables.clone(),
            labels: self.labels(&run.key, "service"),
            limits: confinement.limits,
            security: confinement.security,
            network: NetworkSpec {
                name: name(&run.key),
                aliases: vec![service.name.clone()],
                publish: Vec::new(),
            },
            log: LogDriver::Local {
                max_bytes: 10 << 20,
            },
            ..ContainerSpec::default()
        };
        let created = self.engine.create_container(&spec).await;
        let id = created.map_err(|error| match error {
            DockerError::Workdir { .. } => SandboxError::ServiceWorkdir {
                name: service.name.clone(),
                reason: error.to_string(),
            },
            other => failed(other),
        })?;
        self.check_confined(&id, &spec).await?;
        self.engine.start_container(&id).await.map_err(failed)?;
        match &service.ready {
            None => Ok(()),
            Some(command) => self.wait_ready(service, &id, command).await,
        }
    }

    async fn wait_ready(
        &self,
        service: &ServiceSpec,
        id: &str,
        command: &str,
    ) -> Result<(), SandboxError> {
        let mut last = String::new();
        let waiting = async {
            loop {
                let check = ["sh", "-c", command];
                match self.engine.exec(id, &check, READY_LIMIT).await {
                    Ok(result) if result.exit_code == 0 => return Ok(()),
                    Ok(result) => last = String::from_utf8_lossy(&result.output).into_owned(),
                    Err(error) => last = error.to_string(),
                }
                // One that is over never becomes ready: its own last words say why.
                let state = self
                    .engine
                    .inspect_container(id)
                    .await
                    .map_err(failed)?
                    .state;
                if let ContainerState::Exited(code) = state {
                    return Err(SandboxError::ServiceEnded {
                        name: service.name.clone(),
                        code,
                        output: self.last_words(id).await,
                    });
                }
                tokio::time::sleep(READY_EVERY).await;
            }
        };
        let ended = tokio::time::timeout(READY_LIMIT, waiting).await;
        ended.unwrap_or_else(|_| {
            Err(SandboxError::ServiceNotReady {
                name: service.name.clone(),
                limit: READY_LIMIT,
                output: last.chars().take(WORDS_MAX).collect(),
            })
        })
    }

    async fn last_words(&self, id: &str) -> String {
        let mut output = self.engine.follow_logs(id);
        let mut words = Vec::new();
        let reading = async {
            while let Some(Ok((_, bytes))) = output.next().await {
                words.extend_from_slice(&bytes);
                let over = words.len().saturating_sub(WORDS_MAX * 4);
                words.drain(..over);
            }
        };
        let _what_came_until_now = tokio::time::timeout(LAST_WORDS, reading).await;
        let words = String::from_utf8_lossy(&words);
        let skip = words.chars().count().saturating_sub(WORDS_MAX);
        words.trim().chars().skip(skip).collect()
    }
}
