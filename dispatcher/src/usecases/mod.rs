//! What the dispatcher does, one deed per file. Edges (REST, gRPC, intake, loops) call these; they
//! call core for decisions and the store for facts, and never each other's edges.

pub mod accept_result;
pub mod assign_stage;
pub mod cancel_build;
pub mod capture_pods;
pub mod cut_off_agent;
pub mod decide_delivery;
pub mod expected;
pub mod join_peer;
pub mod lose_attempt;
pub mod plan_build;
pub mod recall_stages;
pub mod rerun_build;
pub mod submit_build;
