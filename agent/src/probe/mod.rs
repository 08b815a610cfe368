//! Does the sandbox hold? Each real profile is started with a probe in it, which tries from inside what
//! a hostile stage would try, with a control beside each trial: what is denied must be denied, and what
//! is allowed must work, or the trial could not see anything.
//!
//! Owns the trials and their judgement. Does not own when they run (`slipway doctor --agent`) nor what
//! follows for placement (the dispatcher gives code from outside only to agents that have a proof).

mod inside;
mod proof;
mod trials;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use slipway_core::pipeline::Sandbox as Profile;
use slipway_daemon::{Clock, Rng};
use slipway_proto::convert::AttemptKey;

use crate::config::Config;
use crate::sandbox::{Ended, Sandbox, StageRun};

pub use proof::Proof;

/// Longest run of one trial.
const TRIAL_LIMIT: Duration = Duration::from_secs(60);
/// Output of a trial that is looked at; the probe prints a few hundred bytes.
const OUTPUT_MAX: usize = 256 * 1024;

/// What one trial found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `strict`, `standard` or `host`.
    pub profile: &'static str,
    /// What was tried.
    pub what: String,
    /// Whether it is as it must be.
    pub good: bool,
    /// What was found.
    pub found: String,
}

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order of the trials.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether code from outside may be executed here.
    #[must_use]
    pub fn proves_strict(&self) -> bool {
        let strict = self.findings.iter().filter(|f| f.profile == "strict");
        strict.clone().count() > 0
            && self
                .findings
                .iter()
                .all(|f| f.profile == "standard" || f.good)
    }

    fn add(&mut self, profile: &'static str, what: &str, good: bool, found: impl Into<String>) {
        self.findings.push(Finding {
            profile,
            what: what.to_owned(),
            good,
            found: found.into(),
        });
    }
}

pub(super) fn word(profile: Profile) -> &'static str {
    match profile {
        Profile::Strict => "strict",
        Profile::Standard | Profile::Trusted => "standard",
    }
}

/// Where trials are executed.
pub(super) struct Bench<'a> {
    sandbox: &'a dyn Sandbox,
    image: &'a str,
    dir: &'a Path,
    clock: &'a Clock,
    rng: &'a Rng,
}

/// A container of a trial, under way. Removed by `Bench::end`.
pub(super) struct Trial {
    key: AttemptKey,
    folder: std::path::PathBuf,
}

impl Bench<'_> {
    async fn begin(
        &self,
        profile: Profile,
        script: &str,
        environment: &[(&str, String)],
    ) -> anyhow::Result<Trial> {
        let key = AttemptKey {
            stage: self.rng.id(self.clock.now()),
            attempt: 1,
        };
        let folder = self.dir.join(format!("probe-{}", key.stage));
        std::fs::create_dir_all(&folder)?;
        // The strict profile's user is no user of this host.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&folder, open)?;
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        let run = StageRun {
            key: key.clone(),
            image: self.image.to_owned(),
            script: script.to_owned(),
            environment,
            workspace: folder.clone(),
            profile,
            services: Vec::new(),
        };
        let trial = Trial { key, folder };
        let begun = async {
            self.sandbox.create(&run).await?;
            self.sandbox.start(&trial.key).await
        };
        if let Err(error) = begun.await {
            self.end(trial).await;
            return Err(error.into());
        }
        Ok(trial)
    }

    /// What it printed, up to a line that begins with `until` (or its end).
    async fn read(&self, trial: &Trial, until: &str) -> String {
        let mut output = self.sandbox.output(&trial.key);
        let mut text = Vec::new();
        let reading = async {
            while let Some(Ok(bytes)) = output.next().await {
                text.extend_from_slice(&bytes);
                let so_far = String::from_utf8_lossy(&text);
                let found = !until.is_empty() && so_far.lines().any(|l| l.starts_with(until));
                if found || text.len() > OUTPUT_MAX {
                    return;
                }
            }
        };
        let _what_came_so_far = tokio::time::timeout(TRIAL_LIMIT, reading).await;
        String::from_utf8_lossy(&text).into_owned()
    }

    async fn wait(&self, trial: &Trial) -> anyhow::Result<Ended> {
        let waiting = self.sandbox.wait(&trial.key);
        let ended = tokio::time::timeout(TRIAL_LIMIT, waiting).await;
        Ok(ended.context("the trial did not end")??)
    }

    async fn end(&self, trial: Trial) {
        if let Err(error) = self.sandbox.remove(&trial.key).await {
            tracing::warn!(%error, "a trial's container cannot be removed");
        }
        let _emptied = std::fs::remove_dir_all(&trial.folder);
    }

    /// From beginning to end: what it printed, and how it ended.
    async fn execute(
        &self,
        profile: Profile,
        script: &str,
        environment: &[(&str, String)],
    ) -> anyhow::Result<(String, Ended)> {
        let trial = self.begin(profile, script, environment).await?;
        let ended = self.wait(&trial).await;
        let text = self.read(&trial, "").await;
        self.end(trial).await;
        Ok((text, ended?))
    }
}

/// Tries everything, with this agent's own settings, and keeps the proof in its folder.
///
/// # Errors
/// When the engine does not answer, or the probe's image cannot be had.
pub async fn probe(config: &Config, clock: &Clock, rng: &Rng) -> anyhow::Result<Report> {
    let sandbox = crate::run::sandbox(config, "probe", clock, rng).await?;
    let said = sandbox.engine().await?;
    sandbox
        .ensure_image(&config.probe_image)
        .await
        .context("the probe needs an image with busybox's tools: set `probe_image`")?;
    std::fs::create_dir_all(&config.data_dir)?;
    let dir = config.data_dir.canonicalize()?;
    let bench = Bench {
        sandbox: sandbox.as_ref(),
        image: &config.probe_image,
        dir: &dir,
        clock,
        rng,
    };
    let mut report = Report::default();
    host(config, said.user_namespaces, &mut report).await;
    for profile in [Profile::Strict, Profile::Standard] {
        inside::try_from_inside(&bench, profile, &mut report).await?;
        trials::try_limits(&bench, profile, &mut report).await?;
    }
    let proof = Proof::new(&said, report.proves_strict(), clock.now());
    proof.save(&config.data_dir)?;
    Ok(report)
}

async fn host(config: &Config, user_namespaces: bool, report: &mut Report) {
    let enforced = match crate::run::deny_list(config) {
        Ok(list) => list.enforce().await,
        Err(error) => Err(error),
    };
    let found = match &enforced {
        Ok(()) => "enforced by this host's packet filter".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    report.add("host", "deny list", enforced.is_ok(), found);
    let (good, found) = match (user_namespaces, config.without_user_namespaces) {
        (true, _) => (true, "root in a container is nobody on the host"),
        (false, true) => (true, "off, as `without_user_namespaces` accepts"),
        (false, false) => (
            false,
            "E_NO_USERNS: set `userns-remap` in the engine's daemon.json, or use a rootless engine, \
             or accept it with `without_user_namespaces`",
        ),
    };
    report.add("host", "user namespaces", good, found);
}
