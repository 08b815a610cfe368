//! The loops: one drives rollouts, one keeps what is owned, one
//! retires old versions, one follows instances that moved, one removes left-overs.

mod baselines;
mod drive;
mod effects;
mod follow;
mod gates;
mod keep;
mod memory;
mod observe;
mod own_gates;
mod quiet;
mod reconcile;
mod record;
mod retire;
mod sweep;

pub(crate) use baselines::Baselines;
pub(crate) use follow::follow;
pub(crate) use keep::keep;
pub(crate) use reconcile::reconcile;
pub(crate) use retire::retire;
pub(crate) use sweep::sweep;
