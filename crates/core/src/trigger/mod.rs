//! Which builds an event starts, which it replaces, and whom it may trust.

pub mod cron;
pub mod latest;
pub mod outside;
