//! What users configure: the literal limits stay the effect size, the mode says when they may be
//! acted on. Whole numbers, so that a plan's hash is the same everywhere.

use serde::{Deserialize, Serialize};

use super::custom::CustomRule;

/// Stored with every verdict.
pub const RULE_VERSION: &str = "gate-1";

/// When a limit may be acted on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum Mode {
    /// When the evidence allows it: at most one healthy deployment in a hundred is aborted.
    #[default]
    Sequential,
    /// At once, on the bare numbers.
    Literal {
        /// How often; 0 = at the end of each bake.
        every_ms: u64,
    },
}

/// A new version fails more often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorRule {
    /// Above this many times stable's rate, in thousandths.
    pub max_ratio_milli: u32,
    /// And above it by this share of all requests, in parts per million.
    pub floor_ppm: u32,
    /// Recorded and not acted on.
    pub dry_run: bool,
}

/// A new version is slower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyRule {
    /// Its 99th percentile is above stable's by this, in percent.
    pub max_increase_percent: u32,
    /// Recorded and not acted on.
    pub dry_run: bool,
}

/// A new version ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartRule {
    /// Recorded and not acted on.
    pub dry_run: bool,
}

/// A new version fills its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRule {
    /// Above this share of its limit, in percent.
    pub max_percent: u32,
    /// Recorded and not acted on.
    pub dry_run: bool,
}

/// What doubt about a suspicious version leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnInconclusive {
    /// A person is asked.
    #[default]
    Pause,
    /// Back to stable.
    Rollback,
    /// Goes on.
    Proceed,
}

/// What too little traffic to prove anything leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnproven {
    /// Goes on.
    #[default]
    Proceed,
    /// A person is asked.
    Pause,
}

/// The gates of one environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateRules {
    /// When limits may be acted on.
    pub mode: Mode,
    /// Errors.
    pub error_rate: Option<ErrorRule>,
    /// Latency.
    pub latency_p99: Option<LatencyRule>,
    /// Restarts.
    pub restarts: Option<RestartRule>,
    /// Memory.
    pub memory: Option<MemoryRule>,
    /// The user's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub custom: Vec<CustomRule>,
    /// With all traffic on the new version: the share of failed requests that is too much, in parts
    /// per million.
    pub watch_error_ppm: u64,
    /// What doubt leads to.
    pub on_inconclusive: OnInconclusive,
    /// What too little traffic leads to.
    pub on_unproven: OnUnproven,
}

impl Default for GateRules {
    fn default() -> Self {
        Self {
            mode: Mode::Sequential,
            error_rate: Some(ErrorRule::default()),
            latency_p99: Some(LatencyRule::default()),
            restarts: Some(RestartRule::default()),
            memory: Some(MemoryRule::default()),
            custom: Vec::new(),
            watch_error_ppm: 10_000,
            on_inconclusive: OnInconclusive::Pause,
            on_unproven: OnUnproven::Proceed,
        }
    }
}

impl Default for ErrorRule {
    fn default() -> Self {
        Self {
            max_ratio_milli: 2_000,
            floor_ppm: 1_000,
            dry_run: false,
        }
    }
}

impl ErrorRule {
    /// `F`.
    #[must_use]
    pub fn max_ratio(&self) -> f64 {
        f64::from(self.max_ratio_milli) / 1_000.0
    }

    /// The floor as a share.
    #[must_use]
    pub fn floor(&self) -> f64 {
        f64::from(self.floor_ppm) / 1_000_000.0
    }
}

impl Default for LatencyRule {
    fn default() -> Self {
        Self {
            max_increase_percent: 50,
            dry_run: false,
        }
    }
}

impl Default for MemoryRule {
    fn default() -> Self {
        Self {
            max_percent: 80,
            dry_run: false,
        }
    }
}

/// One healthy deployment in a hundred may be aborted, over all of its looks, steps and metrics.
const ALPHA: f64 = 0.01;
/// Metrics with a test: errors, latency, restarts.
const TESTED: f64 = 3.0;

/// How unlikely under health the evidence must be, `1/θ`: split over the metrics and the parts of a
/// rollout (its gated bakes, and the watch). `own` = counts of the user's own that are tested too.
#[must_use]
pub fn theta(parts: u32, own: u32) -> f64 {
    (TESTED + f64::from(own)) * f64::from(parts.max(1)) / ALPHA
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_is_split_over_metrics_and_parts() {
        assert!(
            (theta(4, 0) - 1_200.0).abs() < 1e-9,
            "canary with three bakes"
        );
        assert!((theta(1, 0) - 300.0).abs() < 1e-9, "blue-green");
    }
}
