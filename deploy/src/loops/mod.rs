//! The loops: one drives rollouts, one keeps what is owned, one retires old versions.

mod drive;
mod effects;
mod keep;
mod observe;
mod reconcile;
mod retire;

pub(crate) use keep::keep;
pub(crate) use reconcile::reconcile;
pub(crate) use retire::retire;
