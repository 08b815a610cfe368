//! One figure, one line.

#![expect(clippy::print_stdout, reason = "a bench's data")]

use std::time::Duration;

/// A measured figure beside its floor or peer.
#[derive(Debug, serde::Serialize)]
pub struct Figure<'a> {
    /// Which bench.
    pub bench: &'a str,
    /// Which figure.
    pub figure: &'a str,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: &'a str,
    /// What it is compared with.
    pub against: &'a str,
    /// That one's value, in the same unit, from the same run.
    pub against_value: f64,
}

impl Figure<'_> {
    /// Prints the line.
    pub fn print(&self) {
        let ratio = if self.against_value > 0.0 {
            self.value / self.against_value
        } else {
            0.0
        };
        let line = serde_json::json!({
            "bench": self.bench, "figure": self.figure, "value": round(self.value),
            "unit": self.unit, "against": self.against,
            "against_value": round(self.against_value), "ratio": round(ratio),
            "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            "commit": commit(),
        });
        println!("{line}");
    }
}

fn round(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// The commit that is measured.
fn commit() -> String {
    let out = std::process::Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .output();
    match out {
        Ok(out) if out.status.success() => String::from_utf8_lossy(&out.stdout).trim().to_owned(),
        _ => String::new(),
    }
}

/// The middle one of a few values (the upper one of two); 0 of none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// A percentile of durations, in milliseconds (nearest rank).
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a few thousand samples"
)]
pub fn percentile(samples: &[Duration], percent: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort();
    let rank = ((percent / 100.0) * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted
        .get(rank - 1)
        .map_or(0.0, |d| d.as_secs_f64() * 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let samples: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert!((percentile(&samples, 50.0) - 50.0).abs() < 1e-9);
        assert!((percentile(&samples, 99.0) - 99.0).abs() < 1e-9);
        assert!(percentile(&[], 50.0).abs() < 1e-9);
    }
}
