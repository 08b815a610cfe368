//! What is wrong with a pipeline file: where, why, how to mend it, and a code.

use serde::{Deserialize, Serialize};

/// A place in the text; lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct At {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// Characters to underline.
    pub length: u32,
}

impl At {
    /// The beginning of the file: for what is missing altogether.
    pub const START: Self = Self {
        line: 1,
        column: 1,
        length: 1,
    };

    pub(crate) fn new(line: usize, column: usize, length: usize) -> Self {
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).max(1);
        Self {
            line: small(line),
            column: small(column),
            length: small(length),
        }
    }

    pub(crate) fn of(location: &serde_saphyr::Location) -> Self {
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).max(1);
        Self {
            line: small(location.line()),
            column: small(location.column()),
            length: small(location.span().len()).min(200),
        }
    }
}

/// Whether a mistake stops the build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// It can, but somebody should look.
    Warning,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mistake {
    /// `SLPnnnn`; `slipway explain` prints its long form.
    pub code: String,
    /// Error or warning.
    pub severity: Severity,
    /// Where.
    pub at: At,
    /// What happened, in one sentence.
    pub message: String,
    /// Why it is a mistake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How to mend it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Mistake {
    pub(crate) fn new(code: &str, at: At, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            severity: Severity::Error,
            at,
            message: message.into(),
            reason: None,
            fix: None,
        }
    }

    pub(crate) fn warning(code: &str, at: At, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::new(code, at, message)
        }
    }

    pub(crate) fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// A mistake in something that a line of the file names.
    #[must_use]
    pub fn elsewhere(code: &str, line: u32, message: impl Into<String>) -> Self {
        let at = At { line, ..At::START };
        Self::new(code, at, message)
    }

    /// Whether it stops the build.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// The known text nearest to `text`, when it is near enough to be a slip of the keyboard.
pub(crate) fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (strsim::damerau_levenshtein(text, candidate), candidate))
        .filter(|(distance, candidate)| {
            *distance > 0 && *distance <= 2 && *distance < candidate.len()
        })
        .min()
        .map(|(_, candidate)| candidate)
}
