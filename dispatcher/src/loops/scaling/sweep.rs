//! What providers list against what is written down: machines without an agent, agents without a
//! machine.

use std::collections::BTreeSet;
use std::sync::Arc;

use slipway_core::fleet::{Listing, Record, Why, judge};
use slipway_core::id::AgentId;
use slipway_core::time::Timestamp;
use slipway_store::StoreError;

use super::{Answer, SWEEP, Scaling};
use crate::fleet::{ProviderError, Target};

impl Scaling {
    /// Asks providers what there is, each once in a while.
    pub(super) fn sweep(&mut self, now: Timestamp) {
        for (pool, known) in &mut self.pools {
            let due = known.swept_at.is_none_or(|at| now.since(at) >= SWEEP);
            let Ok(provider) = &known.provider else {
                continue;
            };
            if !due || known.sweeping {
                continue;
            }
            known.sweeping = true;
            known.swept_at = Some(now);
            let (provider, answers) = (Arc::clone(provider), self.answers.clone());
            let pool = pool.clone();
            self.shutdown.spawn("list machines", async move {
                let listed = tokio::time::timeout(SWEEP, provider.list())
                    .await
                    .unwrap_or_else(|_| Err(ProviderError::new("no listing within a minute")));
                let _stopping = answers.send((pool, Answer::Listed(listed))).await;
            });
        }
    }

    /// A listing came. What is written down is read after it was made: whatever it lists was written
    /// down before it was started.
    pub(super) async fn listed(
        &mut self,
        pool: &str,
        listed: Result<Listing, ProviderError>,
    ) -> Result<(), StoreError> {
        let now = self.app.clock.now();
        let Some(known) = self.pools.get_mut(pool) else {
            return Ok(());
        };
        known.sweeping = false;
        let asked_before = known.swept_at.unwrap_or(now);
        let listing = match listed {
            Ok(listing) => {
                known.works("list");
                listing
            }
            Err(error) => {
                tracing::warn!(pool, %error, "machines cannot be listed: nothing is stopped");
                known.fail("list", error.to_string(), now);
                return Ok(());
            }
        };
        let rows = self.app.db.machines().await?;
        let records: Vec<Record> = rows
            .iter()
            .filter(|row| row.pool == pool)
            .filter_map(|row| {
                let asked = row.asked_ms.is_some_and(|at| at < asked_before.as_millis());
                Some(Record {
                    agent: row.agent_id.parse().ok()?,
                    machine: row.machine.clone(),
                    asked,
                    stopping: row.state == "stopping",
                })
            })
            .collect();
        let present = self.present(&records, &listing).await?;
        let suspects = self.pools.get(pool).map(|k| k.suspects.clone());
        let verdict = judge(&listing, &records, &present, &suspects.unwrap_or_default());
        if let Some(known) = self.pools.get_mut(pool) {
            known.suspects = verdict.suspects;
        }
        for (agent, machine) in verdict.adopt {
            self.app.db.machine_named(&agent, &machine).await?;
        }
        for orphan in verdict.stop {
            tracing::warn!(
                pool,
                machine = orphan.machine,
                "stopping a machine that is nobody's"
            );
            self.stop_orphan(pool, Target::from(&orphan));
        }
        for agent in verdict.missing {
            self.missing(pool, &agent).await?;
        }
        Ok(())
    }

    async fn missing(&mut self, pool: &str, agent: &AgentId) -> Result<(), StoreError> {
        tracing::warn!(agent = %agent, pool, "a machine is not there any more");
        let now = self.app.clock.now();
        let why = Why::Missing.as_str();
        if self.app.db.retire_machine(agent, why, now).await?
            && let Some(known) = self.pools.get_mut(pool)
        {
            known.fail("boot", format!("agent {agent}: {why}"), now);
        }
        Ok(())
    }

    /// Agents with a stream or with something in their hands.
    async fn present(
        &self,
        records: &[Record],
        listing: &Listing,
    ) -> Result<BTreeSet<AgentId>, StoreError> {
        let held = self.app.db.held_attempts().await?;
        let mut present: BTreeSet<AgentId> = held
            .into_iter()
            .filter_map(|live| live.agent_id?.parse().ok())
            .collect();
        let listed = listing.machines.iter().filter_map(|m| m.agent.as_ref());
        let all = records.iter().map(|r| &r.agent).chain(listed);
        present.extend(all.filter(|id| self.app.link.is_connected(id)).cloned());
        Ok(present)
    }
}
