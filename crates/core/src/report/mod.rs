//! Reports that stages promise: tests (JUnit XML) and coverage (LCOV, Cobertura), read from bytes.
//!
//! A promised report that is absent or unreadable is a state of its own, never "0 tests": the caller
//! keeps `missing` and `invalid` apart from what is here. Counts come from what the report lists, not
//! from its own sums, which producers get wrong.

mod cobertura;
mod junit;
mod lcov;

pub use cobertura::cobertura;
pub use junit::junit;
pub use lcov::lcov;

use serde::{Deserialize, Serialize};

/// Bytes of one report.
pub const REPORT_MAX: usize = 64 << 20;
/// Failures kept with their message.
pub const FAILURES_MAX: usize = 50;
/// Characters kept of a name.
pub(crate) const NAME_MAX: usize = 200;
/// Characters kept of a message.
pub(crate) const MESSAGE_MAX: usize = 500;

/// What a test report says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tests {
    /// Test cases.
    pub total: u32,
    /// Passed, flaky ones included.
    pub passed: u32,
    /// Failed, errors included.
    pub failed: u32,
    /// Skipped.
    pub skipped: u32,
    /// Passed only when tried again.
    pub flaky: u32,
    /// Sum of the cases' times.
    pub duration_ms: u64,
    /// The first failures.
    pub failures: Vec<Failure>,
}

/// One failed test.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Class or suite.
    pub suite: String,
    /// Test.
    pub name: String,
    /// Its message, shortened.
    pub message: String,
}

/// What a coverage report says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lines {
    /// Lines executed.
    pub lines_covered: u64,
    /// Lines that could be.
    pub lines_valid: u64,
}

impl Lines {
    /// Percent; `None` when there are no lines.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a percentage needs no more")]
    pub fn percent(&self) -> Option<f64> {
        (self.lines_valid > 0).then(|| self.lines_covered as f64 * 100.0 / self.lines_valid as f64)
    }
}

/// Why a report cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Larger than allowed.
    #[error("the report is larger than {REPORT_MAX} bytes")]
    TooLarge,
    /// Not the format it should be.
    #[error("not {format}: {problem}")]
    Malformed {
        /// Expected format.
        format: &'static str,
        /// What is wrong, shortened.
        problem: String,
    },
}

pub(crate) fn malformed(format: &'static str, problem: impl ToString) -> ReportError {
    let problem = problem.to_string().chars().take(MESSAGE_MAX).collect();
    ReportError::Malformed { format, problem }
}

pub(crate) fn shorten(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}
