//! Executing a command inside a running container.

use std::time::Duration;

use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use futures::StreamExt as _;

use crate::engine::{SHORT, within};
use crate::{DockerError, Engine};

/// Output kept of one execution; more is read and dropped.
const OUTPUT_MAX: usize = 64 * 1024;

/// How an executed command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecResult {
    /// Exit code.
    pub exit_code: i64,
    /// The beginning of what it printed on either stream.
    pub output: Vec<u8>,
}

impl Engine {
    /// Executes `command` in a running container and waits for its end, at most `limit`.
    ///
    /// # Errors
    /// When the container does not run, or the command does not end in time.
    pub async fn exec(
        &self,
        id: &str,
        command: &[&str],
        limit: Duration,
    ) -> Result<ExecResult, DockerError> {
        let config = ExecConfig {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command.iter().map(|&part| part.to_owned()).collect()),
            ..ExecConfig::default()
        };
        let made = within("exec", SHORT, self.docker.create_exec(id, config)).await?;
        let output = within("exec", limit, async {
            let mut kept = Vec::new();
            if let StartExecResults::Attached { mut output, .. } =
                self.docker.start_exec(&made.id, None).await?
            {
                while let Some(item) = output.next().await {
                    let bytes = item?.into_bytes();
                    let room = OUTPUT_MAX.saturating_sub(kept.len());
                    kept.extend(bytes.iter().take(room));
                }
            }
            Ok(kept)
        })
        .await?;
        let end = within("exec", SHORT, self.docker.inspect_exec(&made.id)).await?;
        let exit_code = end.exit_code.ok_or(DockerError::Incomplete {
            call: "exec",
            what: "an exit code",
        })?;
        Ok(ExecResult { exit_code, output })
    }
}
