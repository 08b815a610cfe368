//! Who may do what.
//!
//! Owns the roles, what each of them may do to a deployment, and the judgement of approvals. Does
//! not own authentication: whoever asks here was authenticated, and only facts that we recorded are
//! judged, never what a caller says about itself.

mod approval;
mod peer;
mod role;

pub use approval::{
    Approval, ApprovalRule, Approver, Decision, Judgement, RULE_VERSION, Refusal, judge,
    may_approve,
};
pub use peer::{Demand, Denied, PeerName, PeerRole, Shown, UnknownPeer, demand, may_call};
pub use role::{Caller, Deed, Role, UnknownRole};
