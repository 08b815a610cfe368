//! The doors of the daemon. `local` is the agent's.

mod local;

pub(crate) use local::serve;
