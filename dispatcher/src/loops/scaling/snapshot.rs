//! Everything that the planner looks at, out of the store and the scheduler.

use std::collections::BTreeMap;
use std::time::Duration;

use slipway_core::build::critical::UNKNOWN;
use slipway_core::fleet::{
    Elsewhere, Machine, MachineState, Pool, PoolSettings, Presence, Ready, Snapshot,
};
use slipway_core::id::AgentId;
use slipway_core::time::Timestamp;
use slipway_store::{MachineRow, PoolRow, StoreError};

use super::{Known, Scaling};
use crate::loops::scheduling::demand::{self, Load};

/// Machines that went are remembered for so long: boot times, drains, and people who ask.
pub(super) const REMEMBERED: Duration = Duration::from_secs(86_400);
/// Boots that a pool's median is taken of.
const BOOTS: usize = 20;
/// Expected times are read again after this.
const EXPECTED_FOR: Duration = Duration::from_secs(60);
/// Repositories whose expected times are remembered.
const EXPECTED_MAX: usize = 1_000;

impl Scaling {
    /// `None` while the scheduler does not answer.
    pub(super) async fn snapshot(
        &mut self,
        rows: &[PoolRow],
    ) -> Result<Option<Snapshot>, StoreError> {
        let Some(load) = demand::load(&self.app).await else {
            return Ok(None);
        };
        let now = self.app.clock.now();
        self.adopt_external(rows, &load, now).await?;
        let machines = self.app.db.machines().await?;
        let gone = self.app.db.machines_gone(now.before(REMEMBERED)).await?;
        let hours: BTreeMap<String, i64> = self.app.db.pool_hours(now).await?.into_iter().collect();
        self.remember(&load, &machines, now);
        let mut pools = Vec::new();
        for row in rows {
            let Ok(settings) = serde_json::from_str::<PoolSettings>(&row.settings) else {
                continue;
            };
            let spent = hours.get(&row.pool).copied().unwrap_or(0);
            let counted = Duration::from_millis(u64::try_from(spent).unwrap_or(0));
            pools.push(self.pool(row, settings, &machines, &gone, counted, &load, now));
        }
        pools.sort_by(|a, b| (a.settings.order, &a.name).cmp(&(b.settings.order, &b.name)));
        Ok(Some(Snapshot {
            ready: self.ready(&load, now).await?,
            elsewhere: elsewhere(&load, &machines),
            pools,
        }))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one pool, used once"
    )]
    fn pool(
        &self,
        row: &PoolRow,
        settings: PoolSettings,
        machines: &[MachineRow],
        gone: &[MachineRow],
        counted: Duration,
        load: &Load,
        now: Timestamp,
    ) -> Pool {
        let worst = self.pools.get(&row.pool).and_then(Known::worst);
        let mine = || machines.iter().filter(|m| m.pool == row.pool);
        let all = || mine().chain(gone.iter().filter(|m| m.pool == row.pool));
        let uncounted = mine().map(|m| now.since(Timestamp::from_millis(m.counted_ms)));
        Pool {
            name: row.pool.clone(),
            removed: row.removed_ms.is_some(),
            machines: mine()
                .filter_map(|m| self.machine(m, &settings, load, now))
                .collect(),
            boot: boot(all()),
            spent: counted + uncounted.sum::<Duration>(),
            failures: worst.map_or(0, |f| f.count),
            failed_at: worst.map_or(now, |f| f.at),
            error: worst.map_or_else(String::new, |f| f.words.clone()),
            drains: all()
                .filter_map(|m| m.drain_ms.map(Timestamp::from_millis))
                .filter(|at| now.since(*at) < settings.down_period())
                .collect(),
            settings,
        }
    }

    fn machine(
        &self,
        row: &MachineRow,
        settings: &PoolSettings,
        load: &Load,
        now: Timestamp,
    ) -> Option<Machine> {
        let agent: AgentId = row.agent_id.parse().ok()?;
        let state = match row.state.as_str() {
            "starting" => MachineState::Starting,
            "ready" => MachineState::Ready,
            "draining" => MachineState::Draining,
            _ => MachineState::Stopping,
        };
        let at = |ms: Option<i64>| Timestamp::from_millis(ms.unwrap_or(row.created_ms));
        let changed = match state {
            MachineState::Starting => at(None),
            MachineState::Ready => at(row.ready_ms),
            MachineState::Draining => at(row.drain_ms),
            MachineState::Stopping => at(row.stop_ms),
        };
        let seen = load.agents.get(&agent);
        let presence = if self.app.link.is_connected(&agent) {
            Presence::Connected
        } else {
            Presence::Away(self.away.get(&agent).copied().unwrap_or(now))
        };
        let busy = seen.map_or(&[][..], |load| &load.held[..]);
        Some(Machine {
            state,
            created: at(None),
            changed,
            known: row.machine.is_some(),
            in_hand: self.in_hand.contains(&agent),
            presence,
            takes_work: seen.is_none_or(|load| load.takes_work),
            slots: seen.map_or(settings.slots, |load| load.slots.max(1)),
            busy: busy
                .iter()
                .map(|(repo, held)| self.left(repo.as_str(), *held))
                .collect(),
            last_busy: self.last_busy.get(&agent).copied().unwrap_or(now),
            agent,
        })
    }

    /// How long something that was held for `held` is expected to take from now.
    fn left(&self, repo: &str, held: Duration) -> Duration {
        let known = self.expected.get(repo).map(|(_, stages)| stages);
        let typical = known.and_then(|stages| median(stages.values().copied().collect()));
        typical.unwrap_or(UNKNOWN).saturating_sub(held)
    }

    async fn ready(&mut self, load: &Load, now: Timestamp) -> Result<Vec<Ready>, StoreError> {
        let mut ready = Vec::new();
        for (demand, count) in &load.ready {
            self.look_up(demand.repo.as_str(), now).await?;
            let known = self.expected.get(demand.repo.as_str());
            let expected = known.and_then(|(_, stages)| stages.get(&demand.name));
            ready.push(Ready {
                labels: demand.labels.clone(),
                count: *count,
                expected: expected.copied().unwrap_or(UNKNOWN),
            });
        }
        Ok(ready)
    }

    async fn look_up(&mut self, repo: &str, now: Timestamp) -> Result<(), StoreError> {
        let fresh = |(at, _): &(Timestamp, _)| now.since(*at) < EXPECTED_FOR;
        if self.expected.get(repo).is_some_and(fresh) {
            return Ok(());
        }
        let mut by_name: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
        for (name, millis) in self.app.db.durations_of_repo(repo).await? {
            let took = Duration::from_millis(u64::try_from(millis).unwrap_or(0));
            by_name.entry(name).or_default().push(took);
        }
        let medians = by_name
            .into_iter()
            .filter_map(|(name, all)| Some((name, median(all)?)));
        if self.expected.len() >= EXPECTED_MAX {
            self.expected.clear();
        }
        self.expected
            .insert(repo.to_owned(), (now, medians.collect()));
        Ok(())
    }

    /// Who is busy and who is away, since when.
    fn remember(&mut self, load: &Load, machines: &[MachineRow], now: Timestamp) {
        let ids: Vec<AgentId> = machines
            .iter()
            .filter_map(|m| m.agent_id.parse().ok())
            .collect();
        for row in machines {
            // An agent that came up after the last that did not.
            let came = row.ready_ms.map(Timestamp::from_millis);
            if let Some(known) = self.pools.get_mut(&row.pool)
                && known.failures.get("boot").map(|f| f.at) < came
            {
                known.works("boot");
            }
        }
        self.last_busy.retain(|agent, _| ids.contains(agent));
        self.away.retain(|agent, _| ids.contains(agent));
        for (agent, row) in ids.into_iter().zip(machines) {
            let busy = load.agents.get(&agent).is_some_and(|l| !l.held.is_empty());
            if self.app.link.is_connected(&agent) {
                self.away.remove(&agent);
            } else {
                self.away.entry(agent.clone()).or_insert(now);
            }
            // Before its hello it cannot have been idle; after a restart of ours nothing is known.
            if busy || row.state == "starting" {
                self.last_busy.insert(agent, now);
            } else {
                self.last_busy.entry(agent).or_insert(now);
            }
        }
    }

    /// Agents that somebody else started for a pool are written down as its machines.
    async fn adopt_external(
        &self,
        rows: &[PoolRow],
        load: &Load,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let external = |name: &str| {
            self.pools
                .get(name)
                .is_some_and(|k| k.made_of.0.kind() == "external")
        };
        for row in rows.iter().filter(|row| external(&row.pool)) {
            let joined = load.agents.iter().filter(|(_, agent)| {
                agent.connected && agent.labels.get("pool") == Some(&row.pool)
            });
            let joined: Vec<AgentId> = joined.map(|(id, _)| id.clone()).collect();
            let known = self.app.db.machines().await?;
            let new = joined.into_iter();
            let new: Vec<AgentId> = new
                .filter(|id| !known.iter().any(|m| m.agent_id == id.as_str()))
                .collect();
            if !new.is_empty() {
                self.app
                    .db
                    .insert_machines(&row.pool, new, true, now)
                    .await?;
            }
        }
        Ok(())
    }
}

fn elsewhere(load: &Load, machines: &[MachineRow]) -> Vec<Elsewhere> {
    let pooled = |id: &AgentId| machines.iter().any(|m| m.agent_id == id.as_str());
    load.agents
        .iter()
        .filter(|(id, agent)| agent.connected && agent.takes_work && !pooled(id))
        .map(|(_, agent)| Elsewhere {
            labels: agent.labels.clone(),
            slots: agent.slots,
            busy: agent
                .held
                .iter()
                .map(|(_, held)| UNKNOWN.saturating_sub(*held))
                .collect(),
        })
        .collect()
}

fn boot<'a>(machines: impl Iterator<Item = &'a MachineRow>) -> Option<Duration> {
    let mut boots: Vec<(i64, i64)> = machines
        .filter_map(|m| Some((m.created_ms, m.ready_ms? - m.created_ms)))
        .collect();
    boots.sort_unstable_by_key(|(created, _)| std::cmp::Reverse(*created));
    let took = |(_, ms): (i64, i64)| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    median(boots.into_iter().take(BOOTS).map(took).collect())
}

fn median(mut all: Vec<Duration>) -> Option<Duration> {
    all.sort_unstable();
    all.get(all.len() / 2).copied()
}
