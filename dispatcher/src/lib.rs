//! The dispatcher: takes webhooks, plans builds, gives stages to agents, keeps logs, answers.
//!
//! Reading order: `intake` (webhook → inbox row) → `loops::inbox` and `usecases::decide_delivery`
//! (row → build) → `loops::scheduling` (stage → agent) → `api::grpc` (the agents' conversation) →
//! `usecases::accept_result` → `loops::handover` (build → coordinator). Executes no user code; templates of a
//! chart are interpreted by helm, shut in (`charts`).

pub mod api;
pub mod args;
pub mod charts;
pub mod config;
pub mod fleet;
pub mod identity;
pub mod intake;
pub mod link;
pub mod logs;
pub mod loops;
mod metrics;
mod run;
pub mod seal;
pub mod source;
pub mod state;
pub mod token;
pub mod tracker;
pub mod usecases;

pub use run::{Listeners, parts, run, serve};
