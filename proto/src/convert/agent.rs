//! The agent conversation's values.

use slipway_core::build::Ending;
use slipway_core::id::{InvalidId, StageId};

use crate::v1;

/// What is wrong with a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field that must be there is not.
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    /// A field holds a value that is not one of the known ones.
    #[error("field `{0}` holds an unknown value")]
    Unknown(&'static str),
    /// A field is not a canonical id.
    #[error(transparent)]
    Id(#[from] InvalidId),
}

/// An attempt by name, checked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AttemptKey {
    /// Which stage.
    pub stage: StageId,
    /// Which attempt, from 1.
    pub attempt: u32,
}

impl AttemptKey {
    /// Its name where a folder is named after it.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("{}-{}", self.stage, self.attempt)
    }
}

impl TryFrom<Option<v1::AttemptRef>> for AttemptKey {
    type Error = WireError;
    fn try_from(wire: Option<v1::AttemptRef>) -> Result<Self, WireError> {
        let wire = wire.ok_or(WireError::Missing("attempt"))?;
        if wire.attempt == 0 {
            return Err(WireError::Unknown("attempt"));
        }
        Ok(Self {
            stage: wire.stage_id.parse()?,
            attempt: wire.attempt,
        })
    }
}

impl From<&AttemptKey> for v1::AttemptRef {
    fn from(key: &AttemptKey) -> Self {
        Self {
            stage_id: key.stage.to_string(),
            attempt: key.attempt,
        }
    }
}

/// How an attempt ended.
///
/// # Errors
/// When the value is missing or unknown.
pub fn ending(wire: i32) -> Result<Ending, WireError> {
    match v1::Ending::try_from(wire) {
        Ok(v1::Ending::Exited) => Ok(Ending::Exited),
        Ok(v1::Ending::TimedOut) => Ok(Ending::TimedOut),
        Ok(v1::Ending::Cancelled) => Ok(Ending::Cancelled),
        Ok(v1::Ending::Aborted) => Ok(Ending::Aborted),
        Ok(v1::Ending::Limit) => Ok(Ending::Limit),
        _ => Err(WireError::Unknown("ending")),
    }
}

/// The stored word for a report's state.
///
/// # Errors
/// When the value is missing or unknown.
pub fn report_state(wire: i32) -> Result<&'static str, WireError> {
    match v1::ReportState::try_from(wire) {
        Ok(v1::ReportState::Present) => Ok("present"),
        Ok(v1::ReportState::Missing) => Ok("missing"),
        Ok(v1::ReportState::Invalid) => Ok("invalid"),
        _ => Err(WireError::Unknown("state")),
    }
}
