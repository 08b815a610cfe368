//! The doors of the daemon. `local` and `doors` are the agent's, `foreign` is for build tools of stages.

mod doors;
mod foreign;
mod keyed;
mod local;
mod moved;

pub(crate) use local::serve;
