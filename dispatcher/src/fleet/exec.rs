//! Machines by a program of this host: it gets one question as JSON on its standard input and answers
//! with JSON on its standard output, within a time and a size.

use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use slipway_core::fleet::Listing;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use super::signed::{self, ANSWER_MAX, Question};
use super::{FleetProvider, Order, ProviderError, Target};

/// Clouds take their time to start a machine; they answer within a minute that they will.
const LIMIT: Duration = Duration::from_secs(60);
/// What is kept of its complaints.
const STDERR_MAX: usize = 4 * 1024;

/// The program of one pool.
pub struct Program {
    program: String,
    installation: String,
    pool: String,
    limit: Duration,
}

impl Program {
    /// A program by its full path.
    #[must_use]
    pub fn new(program: &str, installation: &str, pool: &str) -> Self {
        Self {
            program: program.to_owned(),
            installation: installation.to_owned(),
            pool: pool.to_owned(),
            limit: LIMIT,
        }
    }

    /// The same with another limit.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    async fn ask(&self, question: &Question<'_>) -> Result<Vec<u8>, ProviderError> {
        let verb = question.verb;
        let failed = |why: String| ProviderError::new(format!("`{} {verb}`: {why}", self.program));
        let body = question.body()?;
        let mut child = tokio::process::Command::new(&self.program)
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| failed(e.to_string()))?;
        let group = child.id();
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let whole = async {
            let asking = async move {
                if let Some(mut stdin) = stdin {
                    // A program may answer without reading its question.
                    let _closed = stdin.write_all(&body).await;
                }
            };
            let (_, answer, complaints) =
                tokio::join!(asking, all(stdout, ANSWER_MAX), all(stderr, STDERR_MAX));
            Ok::<_, std::io::Error>((child.wait().await?, answer?, complaints.unwrap_or_default()))
        };
        let ended = tokio::time::timeout(self.limit, whole).await;
        // Whatever it started ends with it.
        if let Some(group) = group.and_then(|id| i32::try_from(id).ok())
            && let Some(group) = rustix::process::Pid::from_raw(group)
        {
            let _nobody_left =
                rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        match ended {
            Err(_) => Err(failed(format!(
                "no answer within {} s",
                self.limit.as_secs()
            ))),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Ok(Ok((status, answer, _))) if status.success() => Ok(answer),
            Ok(Ok((status, _, complaints))) => Err(failed(format!(
                "{status}: {}",
                String::from_utf8_lossy(&complaints)
            ))),
        }
    }
}

/// Everything that comes, up to a limit; more is an error.
async fn all(from: Option<impl AsyncRead + Unpin>, limit: usize) -> std::io::Result<Vec<u8>> {
    let mut read = Vec::new();
    if let Some(from) = from {
        let most = u64::try_from(limit).unwrap_or(u64::MAX);
        from.take(most + 1).read_to_end(&mut read).await?;
    }
    if read.len() > limit {
        return Err(std::io::Error::other(format!("more than {limit} bytes")));
    }
    Ok(read)
}

#[async_trait]
impl FleetProvider for Program {
    async fn list(&self) -> Result<Listing, ProviderError> {
        let question = Question::list(&self.installation, &self.pool);
        signed::listing(&self.ask(&question).await?)
    }

    async fn start(&self, order: &Order) -> Result<String, ProviderError> {
        let question = Question::start(&self.installation, &self.pool, order);
        signed::started(&self.ask(&question).await?)
    }

    async fn stop(&self, target: &Target) -> Result<(), ProviderError> {
        let question = Question::stop(&self.installation, &self.pool, target);
        self.ask(&question).await.map(|_| ())
    }
}
