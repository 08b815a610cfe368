//! One attempt, from assignment to result.
//!
//! Phases: fetch (workspace, image) → create → execute → collect. The assignment is on disk before
//! the container exists; the result is on disk before it is sent. An ending that is not the stage's
//! own doing is `Aborted`, with its reason: the dispatcher repeats it elsewhere.

mod caches;
mod collect;
mod context;
mod execute;
mod image;
mod output;
mod prepare;
mod quota;
mod remote;
mod script;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use slipway_cache_client::LocalCache;
use slipway_core::mask::Patterns;
use slipway_core::pipeline::{EnvValue, StageSpec};
use slipway_daemon::{Clock, Shutdown};
use slipway_proto::convert::AttemptKey;
use slipway_proto::v1;
use tokio::sync::{mpsc, watch};

use crate::dispatchers::Dispatchers;
use crate::engine_watch::EngineLife;
use crate::held::Held;
use crate::log_stream::LogWriter;
use crate::sandbox::Sandbox;

/// How long the last bytes of a log may take before the result is sent without them.
const LOG_PATIENCE: Duration = Duration::from_secs(10);

/// Why an attempt is to end early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A person or a newer build ended it.
    Cancelled(Duration),
    /// Somebody else may hold it now: kill, report nothing.
    Fenced,
}

/// What all attempts share.
pub(crate) struct Shared {
    pub(crate) sandbox: Arc<dyn Sandbox>,
    /// `None` = without content addressing: benches of dispatch.
    pub(crate) cache: Option<LocalCache>,
    /// What the cache daemon has for others, as it said last.
    pub(crate) holdings: watch::Sender<Arc<v1::HoldingsResponse>>,
    pub(crate) held: Held,
    pub(crate) work_dir: PathBuf,
    pub(crate) spool_dir: PathBuf,
    pub(crate) allowed: Vec<String>,
    pub(crate) dispatchers: Arc<Dispatchers>,
    /// Bytes of one attempt's log.
    pub(crate) log_limit: u64,
    /// Bytes of one attempt on the disk, where it is less than its sandbox says.
    pub(crate) disk_limit: Option<u64>,
    pub(crate) clock: Clock,
    pub(crate) shutdown: Shutdown,
    pub(crate) engine: watch::Sender<EngineLife>,
    /// To the dispatcher.
    pub(crate) outbox: mpsc::Sender<v1::AgentMessage>,
}

/// One attempt under way.
pub(crate) struct Attempt {
    pub(crate) key: AttemptKey,
    pub(crate) assign: v1::Assign,
    pub(crate) spec: StageSpec,
    pub(crate) stop: watch::Receiver<Option<Stop>>,
    /// Permission to execute, for at-most-once stages.
    pub(crate) go: watch::Receiver<bool>,
}

/// How an attempt ended, before it is put into a message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ending {
    pub(crate) ending: v1::Ending,
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
    pub(crate) detail: String,
}

impl Ending {
    fn exited(code: i64) -> Self {
        Self {
            ending: v1::Ending::Exited,
            exit_code: i32::try_from(code).unwrap_or(1),
            ..Self::default()
        }
    }

    fn aborted(reason: &str, detail: impl std::fmt::Display) -> Self {
        Self {
            ending: v1::Ending::Aborted,
            reason: reason.to_owned(),
            detail: detail.to_string(),
            ..Self::default()
        }
    }

    fn limit(reason: &str, detail: impl std::fmt::Display) -> Self {
        Self {
            ending: v1::Ending::Limit,
            exit_code: 1,
            reason: reason.to_owned(),
            detail: detail.to_string(),
        }
    }

    fn of(ending: v1::Ending) -> Self {
        Self {
            ending,
            ..Self::default()
        }
    }

    fn is_success(&self) -> bool {
        self.ending == v1::Ending::Exited && self.exit_code == 0
    }
}

/// Executes an attempt. `None` when it was fenced: somebody else may hold it, nothing is reported.
pub(crate) async fn run(
    shared: &Shared,
    mut attempt: Attempt,
    adopted: bool,
) -> Option<v1::Result> {
    let token = remote::token(&attempt);
    let secrets = attempt.assign.secrets.values().chain(&token);
    let patterns = match Patterns::new(secrets.map(String::as_str)) {
        Ok(patterns) => Arc::new(patterns),
        Err(error) => {
            let ending = Ending::limit("secrets", error);
            return Some(message(&attempt, &ending, v1::Result::default()));
        }
    };
    let log = LogWriter::open(
        &shared.spool_dir,
        &attempt.key,
        patterns,
        Arc::clone(&shared.dispatchers),
        shared.log_limit,
        &shared.shutdown,
    );
    let mut log = match log.await {
        Ok(log) => log,
        Err(error) => {
            let ending = Ending::aborted("disk_full", error);
            return Some(message(&attempt, &ending, v1::Result::default()));
        }
    };
    let mut result = v1::Result::default();
    let outcome = if attempt.spec.build.is_some() {
        image::run(shared, &mut attempt, &mut log, &mut result).await
    } else {
        execute::run(shared, &mut attempt, adopted, &mut log, &mut result).await
    };
    let ending = outcome.unwrap_or_else(|ending| ending);
    remote::close(shared, &attempt, ending.is_success(), &mut log).await;
    if matches!(*attempt.stop.borrow(), Some(Stop::Fenced)) {
        return None;
    }
    if ending.ending == v1::Ending::Aborted {
        // Not the stage's own doing, so it is this host's business too.
        tracing::error!(
            stage = %attempt.key.stage,
            attempt = attempt.key.attempt,
            reason = ending.reason,
            "an attempt is lost here: {}",
            ending.detail
        );
    }
    if !ending.detail.is_empty() {
        let _spool_is_full = log.say(&ending.detail).await;
    }
    if let Ok((length, digest, _)) = log.close(LOG_PATIENCE).await {
        result.log_length = length;
        result.log_digest = digest;
    }
    Some(message(&attempt, &ending, result))
}

fn message(attempt: &Attempt, ending: &Ending, mut result: v1::Result) -> v1::Result {
    result.attempt = Some((&attempt.key).into());
    result.ending = ending.ending.into();
    result.exit_code = ending.exit_code;
    result.reason.clone_from(&ending.reason);
    result.detail = ending.detail.chars().take(2_000).collect();
    result
}

pub(crate) use prepare::remove as remove_folder;
pub(crate) use remote::settle as settle_door;

/// Removes the workspace of an attempt; what it was laid out from may leave the cache.
pub(crate) async fn remove_workspace(shared: &Shared, key: &AttemptKey) {
    prepare::remove(&shared.workspace(key)).await;
    if let Some(cache) = &shared.cache {
        // Unheard, it ends by itself in ten minutes.
        let _daemon_is_away = cache.release(&key.folder()).await;
    }
}

impl Shared {
    /// Tells the dispatcher how far an attempt is. The link says the last word of each attempt again
    /// on a new stream.
    pub(crate) fn say(&self, message: v1::agent_message::Message) {
        let message = v1::AgentMessage {
            message: Some(message),
        };
        let _not_connected = self.outbox.try_send(message);
    }

    pub(crate) fn progress(&self, key: &AttemptKey, phase: v1::Phase) {
        self.say(v1::agent_message::Message::Progress(v1::Progress {
            attempt: Some(key.into()),
            phase: phase.into(),
        }));
    }

    pub(crate) fn workspace(&self, key: &AttemptKey) -> PathBuf {
        self.work_dir.join(key.folder())
    }
}

impl Attempt {
    /// The values of a map of variables; a secret that is not there is an error by its name.
    pub(crate) fn values(
        &self,
        variables: &BTreeMap<String, EnvValue>,
    ) -> Result<BTreeMap<String, String>, Ending> {
        variables
            .iter()
            .map(|(name, value)| match value {
                EnvValue::Plain(text) => Ok((name.clone(), text.clone())),
                EnvValue::FromSecret(secret) => self
                    .assign
                    .secrets
                    .get(secret)
                    .map(|value| (name.clone(), value.clone()))
                    .ok_or_else(|| {
                        Ending::aborted("missing_secret", format!("secret `{secret}` was not sent"))
                    }),
            })
            .collect()
    }
}
