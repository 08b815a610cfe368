//! Every decision Slipway makes, as pure functions and small state machines.
//!
//! This crate does no I/O: no clock, no randomness, no files, no sockets, no async. Time, ids and
//! seeds are arguments. It never logs: reports say *why*, as data. The crates at the rim load a
//! snapshot, ask here, persist the answer, then act.
//!
//! Only two shapes exist: a **planner** `plan(&Snapshot, now) -> Plan { actions, report, wake_at }`
//! and a **machine** with `handle(now, event)`, `poll() -> Option<Action>`, `deadline()`.

pub mod access;
pub mod address;
pub mod build;
pub mod cache;
pub mod digest;
pub mod disk;
pub mod fleet;
pub mod frontend;
pub mod gate;
pub mod id;
pub mod image;
pub mod lease;
pub mod manifest;
pub mod mask;
pub mod memo;
pub mod pipeline;
pub mod queue;
pub mod report;
pub mod rollout;
pub mod time;
pub mod traffic;
pub mod trigger;
