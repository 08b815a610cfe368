//! What a gate says.

use serde::{Deserialize, Serialize};

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Failed requests.
    ErrorRate,
    /// Slow requests.
    LatencyP99,
    /// Instances that end by themselves.
    PodRestartCount,
    /// Memory.
    MemoryUsage,
    /// What the user's own gate asks for.
    Custom,
}

impl Metric {
    /// Its word in the store and the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ErrorRate => "error_rate",
            Self::LatencyP99 => "latency_p99",
            Self::PodRestartCount => "pod_restart_count",
            Self::MemoryUsage => "memory_usage",
            Self::Custom => "custom",
        }
    }
}

/// Why nothing was proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// It may well be worse, and there is no more time to see.
    Suspicious,
    /// It fails somewhat more often, and there was too little traffic to say more.
    Unproven,
    /// It goes on: no worse so far, or more weight is what brings evidence.
    GoesOn,
}

/// A verdict; the worst one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "verdict", content = "doubt", rename_all = "snake_case")]
pub enum Verdict {
    /// Take it out.
    Abort,
    /// The data cannot be judged: nothing moves.
    Blind,
    /// Look on.
    Continue,
    /// Looked long enough, and nothing is proven.
    Inconclusive(Doubt),
    /// Not worse than allowed.
    Pass,
}

impl Verdict {
    /// Its word in the store and the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Abort => "abort",
            Self::Blind => "blind",
            Self::Continue => "continue",
            Self::Inconclusive(_) => "inconclusive",
            Self::Pass => "pass",
        }
    }
}

/// One metric's verdict, with its numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricVerdict {
    /// Which metric.
    pub metric: Metric,
    /// The name of a gate of the user's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The verdict.
    pub verdict: Verdict,
    /// The same for people.
    pub text: String,
    /// Stable's share, or the limit where nothing runs beside.
    pub baseline: f64,
    /// The new version's share.
    pub current: f64,
    /// Counts and terms that it was made from.
    pub evidence: serde_json::Value,
    /// Recorded and not acted on.
    pub dry_run: bool,
}

impl MetricVerdict {
    /// What it is called in the store and the API.
    #[must_use]
    pub fn called(&self) -> &str {
        self.name.as_deref().unwrap_or(self.metric.as_str())
    }
}

/// What all gates say together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateReport {
    /// By metric.
    pub verdicts: Vec<MetricVerdict>,
    /// How long was looked, counting only time with data.
    pub elapsed_ms: u64,
    /// Why the data cannot be judged.
    pub blind: Option<String>,
    /// For how long nothing usable was counted.
    #[serde(default)]
    pub blind_ms: u64,
}

impl GateReport {
    /// The worst verdict that is acted on.
    #[must_use]
    pub fn worst(&self) -> Verdict {
        let acted_on = self.verdicts.iter().filter(|one| !one.dry_run);
        let mut worst = acted_on
            .map(|one| one.verdict)
            .min()
            .unwrap_or(Verdict::Pass);
        if self.blind.is_some() {
            worst = worst.min(Verdict::Blind);
        }
        worst
    }

    /// The sentence of the worst verdict.
    #[must_use]
    pub fn text(&self) -> String {
        let worst = self.worst();
        if worst == Verdict::Blind
            && let Some(why) = &self.blind
        {
            return why.clone();
        }
        let one = self
            .verdicts
            .iter()
            .find(|one| !one.dry_run && one.verdict == worst);
        one.map_or_else(
            || "no gate is configured".to_owned(),
            |one| one.text.clone(),
        )
    }
}
