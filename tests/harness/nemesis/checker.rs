//! Was anything lost, doubled, or left stuck? Judged from the database and the engine, when all is over.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::process::Command;
use std::time::Duration;

use super::in_time;
use crate::{Hook, Several};

/// Deliveries that are read.
const ROWS: u32 = 100_000;

/// What was found. Everything must be empty.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Acknowledged, and yet without a build that passed; output that is not whole.
    pub lost: Vec<String>,
    /// Two builds of one delivery, two accepted results of one stage, output that came twice.
    pub doubled: Vec<String>,
    /// Not over, or a container that nobody removed.
    pub stuck: Vec<String>,
    /// Builds that were made.
    pub builds: usize,
    /// Attempts that were begun.
    pub attempts: usize,
    /// What happened meanwhile.
    pub faults: BTreeMap<&'static str, usize>,
}

impl Verdict {
    /// Whether nothing was found.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.lost.is_empty() && self.doubled.is_empty() && self.stuck.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count: usize = self.faults.values().sum();
        writeln!(
            f,
            "{} builds, {} attempts, {count} faults {:?}",
            self.builds, self.attempts, self.faults
        )?;
        for (word, found) in [
            ("lost", &self.lost),
            ("doubled", &self.doubled),
            ("stuck", &self.stuck),
        ] {
            writeln!(f, "{word}: {}", found.len())?;
            for one in found.iter().take(20) {
                writeln!(f, "  {one}")?;
            }
        }
        Ok(())
    }
}

pub(super) async fn check(
    several: &Several,
    hook: &Hook,
    acknowledged: &[String],
    faults: BTreeMap<&'static str, usize>,
    limit: Duration,
) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict {
        faults,
        ..Verdict::default()
    };
    let id = hook.id.parse()?;
    let over = in_time(limit, || async {
        let rows = several.db.deliveries(&id, ROWS).await.ok()?;
        let pending = rows.iter().any(|row| row.state == "received");
        let mut open = pending;
        for row in &rows {
            let build = row.build_id.as_ref().and_then(|id| id.parse().ok());
            if let Some(build) = build {
                let found = several.db.build(&build).await.ok()??;
                open |= found.ended_at.is_none();
            }
        }
        (!open).then_some(())
    });
    let is_over = over.await.is_some();
    let rows = several.db.deliveries(&id, ROWS).await?;
    let by_id: BTreeMap<&str, &slipway_store::Delivery> = rows
        .iter()
        .map(|row| (row.delivery_id.as_str(), row))
        .collect();
    let mut builds = BTreeSet::new();
    for name in acknowledged {
        match by_id.get(name.as_str()).map(|row| &row.build_id) {
            Some(Some(build)) if !builds.insert(build.clone()) => {
                verdict.doubled.push(format!("{name} shares build {build}"));
            }
            Some(Some(_)) => {}
            Some(None) => verdict.lost.push(format!("{name} has no build")),
            None => verdict.lost.push(format!("{name} is not known")),
        }
    }
    verdict.builds = builds.len();
    for build in &builds {
        look_at(several, build, is_over, &mut verdict).await?;
    }
    containers_left(several, &builds, &mut verdict).await?;
    Ok(verdict)
}

async fn look_at(
    several: &Several,
    build: &str,
    is_over: bool,
    verdict: &mut Verdict,
) -> anyhow::Result<()> {
    let id = build.parse()?;
    let row = several.db.build(&id).await?;
    let status = row.map(|row| row.status).unwrap_or_default();
    if status != "passed" {
        let stages = several.db.stages(&id).await?;
        let how: Vec<String> = stages
            .iter()
            .map(|s| format!("{} {} {:?}", s.stage_name, s.state, s.reason))
            .collect();
        let words = format!("build {build} is {status}: {}", how.join(", "));
        if is_over {
            verdict.lost.push(words);
        } else {
            verdict.stuck.push(words);
        }
        return Ok(());
    }
    for stage in several.db.stages(&id).await? {
        let attempts = several.db.attempts(&stage.stage_id.parse()?).await?;
        verdict.attempts += attempts.len();
        let accepted = attempts
            .iter()
            .filter(|a| a.outcome.as_deref() == Some("succeeded"));
        if accepted.count() != 1 {
            let words = format!("stage {} has not one accepted result", stage.stage_id);
            verdict.doubled.push(words);
        }
    }
    output_of(several, build, verdict).await;
    Ok(())
}

/// Each stage prints two lines; of the attempt that counts, each comes once.
async fn output_of(several: &Several, build: &str, verdict: &mut Verdict) {
    let rest = &several.members[0].rest;
    let whole = in_time(Duration::from_secs(60), || async {
        let log = rest.get(&format!("/builds/{build}/logs")).await.ok()?;
        let lines = log["logs"].as_array()?.clone();
        let times = |word: &str| lines.iter().filter(|l| l["message"] == word).count();
        let (begun, ended) = (times("begun"), times("ended"));
        (begun >= 2 && ended >= 2).then_some((begun, ended))
    });
    match whole.await {
        Some((2, 2)) => {}
        Some(times) => verdict
            .doubled
            .push(format!("output of {build}: {times:?}")),
        None => verdict.lost.push(format!("output of {build} is not whole")),
    }
}

/// Containers of stages that are over.
async fn containers_left(
    several: &Several,
    builds: &BTreeSet<String>,
    verdict: &mut Verdict,
) -> anyhow::Result<()> {
    let mut stages = BTreeSet::new();
    for build in builds {
        for stage in several.db.stages(&build.parse()?).await? {
            stages.insert(stage.stage_id);
        }
    }
    let left = || {
        let listed = Command::new("docker")
            .args(["ps", "-aq", "--format", "{{.Label \"slipway.stage\"}}"])
            .output();
        let text = listed.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
        let text = text.unwrap_or_default();
        let ours = text.lines().filter(|stage| stages.contains(*stage));
        ours.map(str::to_owned).collect::<Vec<String>>()
    };
    let gone = in_time(Duration::from_secs(60), || async {
        left().is_empty().then_some(())
    });
    if gone.await.is_none() {
        let found = left().into_iter();
        verdict
            .stuck
            .extend(found.map(|stage| format!("a container of stage {stage} is left")));
    }
    Ok(())
}
