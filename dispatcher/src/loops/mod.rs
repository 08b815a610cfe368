//! Loops, all alike: load → decide (core) → persist → act → sleep until woken or a slow tick. A bell
//! that was missed makes them slower, never wrong.

pub mod handover;
pub mod inbox;
pub mod leadership;
pub mod reconcile_refs;
pub mod revocation;
pub mod scaling;
pub mod schedules;
pub mod scheduling;
