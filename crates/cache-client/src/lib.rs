//! Speaks to cache daemons. `local` is the daemon beside the agent, over a unix socket.
//!
//! Does not decide what a failure means: a miss is a miss for the caller to cope with.

mod doors;
mod local;

pub use local::{CacheError, CapturedLayer, LocalCache, RestoredWorkspace};
