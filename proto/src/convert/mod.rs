//! Wire ↔ core. An enum's zero value is a lost field and is refused here, never guessed.

mod agent;
mod traffic;

pub use agent::{AttemptKey, WireError, ending, report_state};
pub use traffic::{table_from_wire, table_to_wire};
