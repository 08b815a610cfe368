//! The loops: one drives rollouts, one keeps what is owned, one
//! retires old versions, one follows instances that moved.

mod drive;
mod effects;
mod follow;
mod keep;
mod observe;
mod reconcile;
mod record;
mod retire;

pub(crate) use follow::follow;
pub(crate) use keep::keep;
pub(crate) use reconcile::reconcile;
pub(crate) use retire::retire;
