//! Facts that decisions need and that several commands and the driver look up.

use std::collections::BTreeMap;

use anyhow::Context as _;
use slipway_core::access::{Approval, Approver, Caller, Decision, Judgement, judge};
use slipway_core::rollout::{Kind, RolloutPlan, pinned_digest};
use slipway_core::time::Timestamp;
use slipway_store::{AuditEntry, EnvironmentRow, RolloutFilter, RolloutRow, TokenRow};

use crate::places::EnvironmentTarget;
use crate::run::Coordinator;

impl Coordinator {
    /// An environment by its id, with its target read.
    pub(crate) async fn environment(
        &self,
        id: &str,
    ) -> anyhow::Result<(EnvironmentRow, EnvironmentTarget)> {
        let row = self
            .db
            .environment(id)
            .await?
            .context("the environment is not registered")?;
        let target = serde_json::from_str(&row.target)
            .with_context(|| format!("the target of environment `{}` is not readable", row.name))?;
        Ok((row, target))
    }

    /// The version that was proven good last.
    pub(crate) async fn good_version(
        &self,
        service_id: &str,
        environment_id: &str,
    ) -> anyhow::Result<Option<String>> {
        let versions = self.db.versions(service_id, environment_id).await?;
        let good = versions
            .into_iter()
            .find(|version| version.last_good_at.is_some());
        Ok(good.map(|version| version.version_id))
    }

    /// Why a rollout may not enter its environment, and whether that may still change by itself.
    pub(crate) async fn barred(
        &self,
        row: &RolloutRow,
        plan: &RolloutPlan,
    ) -> anyhow::Result<(Option<String>, bool)> {
        if plan.kind == Kind::Rollback {
            return Ok((None, false));
        }
        self.barred_by(&row.service_id, plan).await
    }

    /// The same for a plan that is not stored yet.
    pub(crate) async fn barred_by(
        &self,
        service_id: &str,
        plan: &RolloutPlan,
    ) -> anyhow::Result<(Option<String>, bool)> {
        let digest = pinned_digest(&plan.new.image).unwrap_or_default();
        for environment in &plan.after {
            if self
                .db
                .succeeded_with(service_id, environment, digest)
                .await?
                .is_some()
            {
                continue;
            }
            let filter = RolloutFilter {
                service: plan.service.clone(),
                environment: environment.clone(),
                status: "in_progress".to_owned(),
                limit: 100,
                ..RolloutFilter::default()
            };
            let under_way = self.db.rollouts(&filter).await?.into_iter().any(|other| {
                let other = serde_json::from_str::<RolloutPlan>(&other.plan_json);
                other.is_ok_and(|other| pinned_digest(&other.new.image) == Some(digest))
            });
            let reason = format!(
                "this image has not succeeded in `{environment}`, which comes \
                 before `{}`",
                plan.environment
            );
            return Ok((Some(reason), under_way));
        }
        Ok((None, false))
    }

    /// The approvals of a rollout, judged by what its approvers may do now.
    pub(crate) async fn judge_approvals(
        &self,
        row: &RolloutRow,
        plan: &RolloutPlan,
    ) -> anyhow::Result<Judgement> {
        let Some(rule) = &plan.approval else {
            return Ok(Judgement::NotNeeded);
        };
        let now = self.clock.now();
        let asked_at = Timestamp::from_millis(row.created_at);
        let mut recorded = Vec::new();
        for approval in self.db.approvals(&row.deployment_id).await? {
            recorded.push(Approval {
                decision: match approval.decision.as_str() {
                    "approved" => Decision::Approved,
                    // What cannot be read is not a yes.
                    _ => Decision::Rejected,
                },
                approver: approval.approver_id,
                plan_hash: approval.plan_hash,
                asked_at,
            });
        }
        let approvers = self.callers(now).await?;
        let (hash, who) = (&row.plan_hash, &plan.initiators);
        Ok(judge(
            Some(rule),
            &recorded,
            &approvers,
            who,
            hash,
            asked_at,
            now,
        ))
    }

    /// Everybody with a living token, with what all of their tokens together allow.
    async fn callers(&self, now: Timestamp) -> anyhow::Result<BTreeMap<String, Approver>> {
        let mut words: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for token in self
            .db
            .tokens()
            .await?
            .into_iter()
            .filter(|token| lives(token, now))
        {
            let roles: Vec<String> = serde_json::from_str(&token.roles).unwrap_or_default();
            words.entry(token.subject).or_default().extend(roles);
        }
        let approver = |(who, words): (String, Vec<String>)| {
            let caller = Caller::new(&who, &words);
            (who, Approver { caller })
        };
        Ok(words.into_iter().map(approver).collect())
    }

    /// An audit row of now.
    pub(crate) fn audit(
        &self,
        (actor_type, actor_id): (&str, &str),
        action: &str,
        deployment: &str,
        detail: serde_json::Value,
    ) -> AuditEntry {
        AuditEntry {
            at: self.clock.now(),
            actor_type: actor_type.to_owned(),
            actor_id: actor_id.to_owned(),
            address: String::new(),
            action: action.to_owned(),
            object_type: "deployment".to_owned(),
            object_id: deployment.to_owned(),
            detail,
        }
    }
}

/// Whether a token can still be used.
pub(crate) fn lives(token: &TokenRow, now: Timestamp) -> bool {
    token.revoked_ms.is_none() && token.expires_ms > now.as_millis()
}
