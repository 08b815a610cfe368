//! Wire ↔ core. An enum's zero value is a lost field and is refused here, never guessed.

mod agent;

pub use agent::{AttemptKey, WireError, ending, report_state};
