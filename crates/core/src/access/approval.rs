//! The judgement of approvals: bound to what is launched, by somebody who did not start it, and
//! looked at again when it is used.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::role::{Caller, Deed, identities};
use crate::time::Timestamp;

/// Stored with every decision, so that a later reader knows which rule it was judged by.
pub const RULE_VERSION: &str = "approval-1";

/// Who must agree before a deployment starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRule {
    /// Groups whose members may approve; empty = whoever has the role.
    pub groups: BTreeSet<String>,
    /// How many different people; at least 1.
    pub min_approvals: u32,
    /// Whoever started it may not approve it.
    pub approver_not_initiator: bool,
    /// The question is void after this time.
    pub expiry_ms: u64,
}

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Yes.
    Approved,
    /// No.
    Rejected,
}

/// A recorded decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Whose.
    pub approver: String,
    /// Which plan it was given for.
    pub plan_hash: String,
    /// What.
    pub decision: Decision,
    /// When it was asked for.
    pub asked_at: Timestamp,
}

/// What an approver may do *now*, looked up again at use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approver {
    /// Present roles and groups; without any when the account is gone.
    pub caller: Caller,
}

/// Why somebody may not approve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not an approver.
    #[error("`{0}` may not approve: the role approver (or admin) is needed")]
    NotApprover(String),
    /// In none of the groups.
    #[error("`{0}` is in none of the groups that may approve here: {1}")]
    NotInGroup(String, String),
    /// Started it.
    #[error("`{0}` started this deployment and may not approve it: a second person is needed")]
    OwnDeployment(String),
}

/// Where an approval stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nobody has to agree.
    NotNeeded,
    /// Enough people agreed.
    Granted {
        /// Who.
        by: Vec<String>,
    },
    /// Not yet.
    Pending {
        /// How many more.
        missing: u32,
        /// Recorded approvals that do not count, with the reason.
        void: Vec<String>,
    },
    /// Somebody said no.
    Rejected {
        /// Who.
        by: String,
    },
    /// Nobody answered in time.
    Expired,
}

impl Judgement {
    /// Whether the deployment may go on.
    #[must_use]
    pub fn allows(&self) -> bool {
        matches!(self, Self::NotNeeded | Self::Granted { .. })
    }
}

/// Whether `caller` may approve something that `initiators` started.
///
/// # Errors
/// The reason why not.
pub fn may_approve(
    rule: &ApprovalRule,
    caller: &Caller,
    initiators: &BTreeSet<String>,
) -> Result<(), Refusal> {
    if !caller.may(Deed::Approve) {
        return Err(Refusal::NotApprover(caller.subject.clone()));
    }
    if !rule.groups.is_empty() && rule.groups.is_disjoint(&caller.groups) {
        let groups: Vec<&str> = rule.groups.iter().map(String::as_str).collect();
        return Err(Refusal::NotInGroup(
            caller.subject.clone(),
            groups.join(", "),
        ));
    }
    let behind: BTreeSet<String> = initiators.iter().flat_map(|who| identities(who)).collect();
    if rule.approver_not_initiator && !behind.is_disjoint(&caller.identities()) {
        return Err(Refusal::OwnDeployment(caller.subject.clone()));
    }
    Ok(())
}

/// Judges what was recorded against what is about to be launched, now. Used when a decision comes in
/// and again when the deployment uses it.
#[must_use]
pub fn judge(
    rule: Option<&ApprovalRule>,
    recorded: &[Approval],
    approvers: &BTreeMap<String, Approver>,
    initiators: &BTreeSet<String>,
    plan_hash: &str,
    asked_at: Timestamp,
    now: Timestamp,
) -> Judgement {
    let Some(rule) = rule else {
        return Judgement::NotNeeded;
    };
    let mut people = BTreeSet::new();
    let mut by = Vec::new();
    let mut void = Vec::new();
    for approval in recorded {
        let who = &approval.approver;
        if approval.plan_hash != plan_hash {
            void.push(format!("{who}: the plan changed after the approval"));
            continue;
        }
        if approval.decision == Decision::Rejected {
            return Judgement::Rejected { by: who.clone() };
        }
        let Some(approver) = approvers.get(who) else {
            void.push(format!("{who}: no longer has an account"));
            continue;
        };
        if let Err(refusal) = may_approve(rule, &approver.caller, initiators) {
            void.push(refusal.to_string());
            continue;
        }
        // Two accounts of one person are one person.
        let owner = identities(who).into_iter().next().unwrap_or_default();
        if people.insert(owner) {
            by.push(who.clone());
        }
    }
    let needed = rule.min_approvals.max(1);
    let got = u32::try_from(by.len()).unwrap_or(u32::MAX);
    if now.since(asked_at).as_millis() > u128::from(rule.expiry_ms) {
        return Judgement::Expired;
    }
    if got >= needed {
        return Judgement::Granted { by };
    }
    Judgement::Pending {
        missing: needed - got,
        void,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn rule() -> ApprovalRule {
        ApprovalRule {
            groups: BTreeSet::new(),
            min_approvals: 1,
            approver_not_initiator: true,
            expiry_ms: 24 * HOUR,
        }
    }

    fn yes(who: &str, plan_hash: &str) -> Approval {
        Approval {
            approver: who.to_owned(),
            plan_hash: plan_hash.to_owned(),
            decision: Decision::Approved,
            asked_at: Timestamp::EPOCH,
        }
    }

    fn people(list: &[(&str, &[&str])]) -> BTreeMap<String, Approver> {
        list.iter()
            .map(|(who, words)| {
                let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
                (
                    (*who).to_owned(),
                    Approver {
                        caller: Caller::new(who, &words),
                    },
                )
            })
            .collect()
    }

    fn started_by(who: &str) -> BTreeSet<String> {
        BTreeSet::from([who.to_owned()])
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp::EPOCH.after(std::time::Duration::from_millis(ms))
    }

    #[test]
    fn approval_toctou_void() {
        let judged = |hash: &str| {
            judge(
                Some(&rule()),
                &[yes("bob", "plan-a")],
                &people(&[("bob", &["approver"])]),
                &started_by("alice"),
                hash,
                Timestamp::EPOCH,
                at(HOUR),
            )
        };
        assert_eq!(
            judged("plan-a"),
            Judgement::Granted {
                by: vec!["bob".to_owned()]
            }
        );
        // A push, a retag, a changed variable or setting gives another hash: ask again.
        let Judgement::Pending { missing: 1, void } = judged("plan-b") else {
            panic!("an approval of another plan counted");
        };
        assert_eq!(void, ["bob: the plan changed after the approval"]);
    }

    #[test]
    fn approval_separation_of_duties() {
        let judged = |who: &str, initiator: &str| {
            judge(
                Some(&rule()),
                &[yes(who, "p")],
                &people(&[(who, &["approver", "admin"])]),
                &started_by(initiator),
                "p",
                Timestamp::EPOCH,
                at(1),
            )
            .allows()
        };
        assert!(judged("bob", "alice"));
        assert!(!judged("alice", "alice"), "approved their own deployment");
        assert!(
            !judged("alice/ci", "alice"),
            "approved through a service account"
        );
        assert!(
            !judged("alice", "alice/ci"),
            "approved what their service account started"
        );
        assert!(
            !judged("alice/one", "alice/two"),
            "two accounts of one person"
        );
        let refusal = may_approve(
            &rule(),
            &Caller::new("alice", &["approver".to_owned()]),
            &started_by("alice"),
        );
        assert_eq!(refusal, Err(Refusal::OwnDeployment("alice".to_owned())));
        let off = ApprovalRule {
            approver_not_initiator: false,
            ..rule()
        };
        let alice = Caller::new("alice", &["approver".to_owned()]);
        assert_eq!(may_approve(&off, &alice, &started_by("alice")), Ok(()));
    }

    #[test]
    fn approval_recheck_at_use() {
        let rule = ApprovalRule {
            groups: BTreeSet::from(["release".to_owned()]),
            ..rule()
        };
        let judged = |now: &BTreeMap<String, Approver>, ms: u64| {
            let recorded = [yes("bob", "p")];
            judge(
                Some(&rule),
                &recorded,
                now,
                &started_by("al"),
                "p",
                Timestamp::EPOCH,
                at(ms),
            )
        };
        let member = people(&[("bob", &["approver", "group:release"])]);
        assert!(judged(&member, 1).allows());
        let left_group = people(&[("bob", &["approver"])]);
        assert!(!judged(&left_group, 2).allows(), "left the group");
        let lost_role = people(&[("bob", &["viewer", "group:release"])]);
        assert!(!judged(&lost_role, 2).allows(), "lost the role");
        assert!(!judged(&people(&[]), 2).allows(), "account gone");
        assert_eq!(judged(&member, 24 * HOUR + 1), Judgement::Expired);
    }

    #[test]
    fn two_approvals_need_two_people_and_one_no_is_enough() {
        let rule = ApprovalRule {
            min_approvals: 2,
            ..rule()
        };
        let all = people(&[
            ("bob", &["approver"]),
            ("bob/ci", &["approver"]),
            ("eve", &["admin"]),
        ]);
        let judged = |list: &[Approval]| {
            judge(
                Some(&rule),
                list,
                &all,
                &started_by("al"),
                "p",
                Timestamp::EPOCH,
                at(1),
            )
        };
        assert!(!judged(&[yes("bob", "p"), yes("bob/ci", "p")]).allows());
        assert!(judged(&[yes("bob", "p"), yes("eve", "p")]).allows());
        let no = Approval {
            decision: Decision::Rejected,
            ..yes("eve", "p")
        };
        assert_eq!(
            judged(&[yes("bob", "p"), no]),
            Judgement::Rejected {
                by: "eve".to_owned()
            }
        );
    }

    #[test]
    fn a_rule_of_zero_approvals_still_needs_one() {
        let zero = ApprovalRule {
            min_approvals: 0,
            ..rule()
        };
        let judged = judge(
            Some(&zero),
            &[],
            &people(&[]),
            &started_by("al"),
            "p",
            Timestamp::EPOCH,
            at(1),
        );
        assert_eq!(
            judged,
            Judgement::Pending {
                missing: 1,
                void: vec![]
            }
        );
    }
}
