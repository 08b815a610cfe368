//! The phases of a rollout, with the words that the store and the API use for them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A stored word that names no phase.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a phase of a rollout")]
pub struct UnknownPhase(pub String);

/// Where a rollout stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Checked and stored; nothing happened yet.
    Planned,
    /// Waits for people. Holds no lock.
    AwaitApproval,
    /// Waits for its turn.
    WaitLock,
    /// Starts the new version's instances.
    Prepare,
    /// Waits until they are healthy.
    Warm,
    /// Checks them before any traffic.
    Smoke,
    /// Moves traffic by one step.
    Shift,
    /// Looks at the new version at this step's weight.
    Bake,
    /// Looks at the new version with all traffic on it.
    Watch,
    /// Waits for a person; traffic stays as it is.
    Paused,
    /// The new version is good.
    Succeeded,
    /// Moves all traffic to stable.
    ShiftBack,
    /// Reads back that it moved.
    VerifyBack,
    /// Lets the new version finish what it was asked.
    DrainNew,
    /// Removes the new version.
    Clean,
    /// Ended before traffic (or the first deployment, which has nothing to go back to).
    Failed,
    /// Ended with stable back.
    RolledBack,
    /// Could not prove that stable is back. Keeps trying, and a person is asked.
    Held,
}

impl Phase {
    /// Every phase with its stored word.
    pub const ALL: [(Self, &'static str); 18] = [
        (Self::Planned, "planned"),
        (Self::AwaitApproval, "await_approval"),
        (Self::WaitLock, "wait_lock"),
        (Self::Prepare, "prepare"),
        (Self::Warm, "warm"),
        (Self::Smoke, "smoke"),
        (Self::Shift, "shift"),
        (Self::Bake, "bake"),
        (Self::Watch, "watch"),
        (Self::Paused, "paused"),
        (Self::Succeeded, "succeeded"),
        (Self::ShiftBack, "shift_back"),
        (Self::VerifyBack, "verify_back"),
        (Self::DrainNew, "drain_new"),
        (Self::Clean, "clean"),
        (Self::Failed, "failed"),
        (Self::RolledBack, "rolled_back"),
        (Self::Held, "held"),
    ];

    /// The stored word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(phase, _)| *phase == self)
            .map_or("held", |(_, word)| word)
    }

    /// Whether this phase never changes again.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::RolledBack)
    }

    /// Whether this phase acts on targets or routers, and therefore needs the lock.
    #[must_use]
    pub fn needs_lock(self) -> bool {
        !self.is_terminal() && !matches!(self, Self::Planned | Self::AwaitApproval | Self::WaitLock)
    }

    /// Whether the rollout is on its way back.
    #[must_use]
    pub fn is_going_back(self) -> bool {
        matches!(
            self,
            Self::ShiftBack | Self::VerifyBack | Self::DrainNew | Self::Clean | Self::Held
        )
    }

    /// The word of the API.
    #[must_use]
    pub fn public_status(self) -> &'static str {
        match self {
            Self::Succeeded => "completed",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
            _ => "in_progress",
        }
    }

    /// Percent done on entering this phase. Shown progress never falls: whoever stores it keeps the
    /// highest.
    #[must_use]
    pub fn progress(self) -> u8 {
        match self {
            Self::Planned | Self::AwaitApproval | Self::WaitLock => 0,
            Self::Prepare => 5,
            Self::Warm => 10,
            Self::Smoke | Self::Shift | Self::Bake => 15,
            Self::Watch | Self::Paused => 85,
            Self::Succeeded => 100,
            Self::ShiftBack
            | Self::VerifyBack
            | Self::DrainNew
            | Self::Clean
            | Self::Failed
            | Self::RolledBack
            | Self::Held => 0,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Phase {
    type Err = UnknownPhase;
    fn from_str(word: &str) -> Result<Self, UnknownPhase> {
        Self::ALL
            .iter()
            .find(|(_, known)| *known == word)
            .map(|(phase, _)| *phase)
            .ok_or_else(|| UnknownPhase(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_reads_back_and_only_terminal_ones_end_the_status() {
        for (phase, word) in Phase::ALL {
            assert_eq!(word.parse(), Ok(phase));
            assert_eq!(phase.is_terminal(), phase.public_status() != "in_progress");
            assert_eq!(phase == Phase::Succeeded, phase.progress() == 100);
        }
        assert!("done".parse::<Phase>().is_err());
    }
}
