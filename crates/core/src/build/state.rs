//! The states of stages and builds, with the words that the store and the API use for them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A stored word that names no state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a known state")]
pub struct UnknownState(pub String);

/// Where a stage stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageState {
    /// Waits for needs, an approval, a concurrency group or a back-off.
    Waiting,
    /// May be given to an agent.
    Ready,
    /// Given to an agent; nothing has been executed yet.
    Assigned,
    /// Executing.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended badly, by the user's own doing or after every repetition for ours.
    Failed,
    /// Ended by a person or by a newer build of the same ref before it could end by itself.
    Cancelled,
    /// Will not be executed; the reason says why.
    Skipped,
    /// A newer build of the same ref replaced this one.
    Superseded,
    /// An at-most-once stage whose agent was lost: a person decides.
    Unknown,
}

impl StageState {
    const ALL: [(Self, &'static str); 10] = [
        (Self::Waiting, "waiting"),
        (Self::Ready, "ready"),
        (Self::Assigned, "assigned"),
        (Self::Running, "running"),
        (Self::Succeeded, "succeeded"),
        (Self::Failed, "failed"),
        (Self::Cancelled, "cancelled"),
        (Self::Skipped, "skipped"),
        (Self::Superseded, "superseded"),
        (Self::Unknown, "unknown"),
    ];

    /// The stored word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(state, _)| *state == self)
            .map_or("unknown", |(_, word)| word)
    }

    /// Whether this state never changes again (a person may still decide about `unknown`).
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Succeeded
                | Self::Failed
                | Self::Cancelled
                | Self::Skipped
                | Self::Superseded
                | Self::Unknown
        )
    }

    /// Whether an agent holds the stage.
    #[must_use]
    pub fn is_held(self) -> bool {
        matches!(self, Self::Assigned | Self::Running)
    }

    /// The word of the API for this state.
    #[must_use]
    pub fn public(self) -> &'static str {
        match self {
            Self::Waiting | Self::Ready | Self::Assigned => "queued",
            Self::Running => "running",
            Self::Succeeded => "passed",
            Self::Failed | Self::Unknown => "failed",
            Self::Cancelled | Self::Superseded => "cancelled",
            Self::Skipped => "skipped",
        }
    }
}

impl fmt::Display for StageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for StageState {
    type Err = UnknownState;
    fn from_str(word: &str) -> Result<Self, UnknownState> {
        Self::ALL
            .iter()
            .find(|(_, known)| *known == word)
            .map(|(state, _)| *state)
            .ok_or_else(|| UnknownState(word.to_owned()))
    }
}

/// Where a build stands: the words of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildStatus {
    /// Nothing has been executed yet.
    Queued,
    /// At least one stage was given to an agent.
    Building,
    /// Every stage that counts ended well.
    Passed,
    /// A stage that counts failed.
    Failed,
    /// Ended before it could pass or fail.
    Cancelled,
}

impl BuildStatus {
    /// The stored word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Building => "building",
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the build ended.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Building)
    }
}

impl fmt::Display for BuildStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for BuildStatus {
    type Err = UnknownState;
    fn from_str(word: &str) -> Result<Self, UnknownState> {
        Ok(match word {
            "queued" => Self::Queued,
            "building" => Self::Building,
            "passed" => Self::Passed,
            "failed" => Self::Failed,
            "cancelled" => Self::Cancelled,
            _ => return Err(UnknownState(word.to_owned())),
        })
    }
}
