//! The doors of the daemon. `local` is the agent's.

mod keyed;
mod local;

pub(crate) use local::serve;
