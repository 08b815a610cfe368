//! Keeping the index equal to the store.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use slipway_core::id::{BuildId, RepoId, StageId};
use slipway_core::lease::grantor::Event;
use slipway_core::pipeline::Group;
use slipway_core::queue::{Held, Waiting};
use slipway_core::time::Timestamp;
use slipway_store::{QueueRow, StoreError};

use super::Scheduler;

/// Expected time of a stage while nothing is known of it.
const UNKNOWN_DURATION: Duration = Duration::from_secs(60);

/// A row of the queue, read.
enum Entry {
    Waiting(Box<Waiting>),
    Held(StageId, u32, Box<Held>, u32),
}

fn read(row: &QueueRow) -> Option<Entry> {
    let stage: StageId = row.stage_id.parse().ok()?;
    let build: BuildId = row.build_id.parse().ok()?;
    let repo: RepoId = row.repo_id.parse().ok()?;
    let attempt = u32::try_from(row.attempt).ok()?;
    let limit = |n: i64| u32::try_from(n).unwrap_or(1);
    let group = row.concurrency_group.clone().map(|name| Group {
        name,
        limit: limit(row.concurrency_limit),
    });
    let build_group = row.build_group.clone().map(|name| Group {
        name,
        limit: limit(row.build_group_limit),
    });
    if row.state == "ready" {
        return Some(Entry::Waiting(Box::new(Waiting {
            stage,
            attempt,
            build,
            repo,
            name: row.stage_name.clone(),
            priority: u8::try_from(row.priority).unwrap_or(5),
            urgent: row.urgent == 1,
            ready_at: Timestamp::from_millis(row.ready_ms.unwrap_or(0)),
            not_before: Timestamp::from_millis(row.not_before_ms),
            labels: serde_json::from_str(&row.labels).unwrap_or_default(),
            group,
            build_group,
            build_begun: row.build_status == "building",
            critical: UNKNOWN_DURATION,
            lost_by: serde_json::from_str(&row.lost_agents).unwrap_or_default(),
            near: None,
        })));
    }
    let held = Held {
        build,
        repo,
        agent: row.agent_id.as_ref()?.parse().ok()?,
        group: group.map(|g| g.name),
        build_group: build_group.map(|g| g.name),
    };
    let weight = u32::try_from(row.weight).unwrap_or(1);
    Some(Entry::Held(stage, attempt, Box::new(held), weight))
}

impl Scheduler {
    /// Re-reads everything. After the start whatever differs was not announced, and is counted.
    pub(super) async fn reload(&mut self, start: bool) -> Result<(), StoreError> {
        let rows = self.app.db.queue().await?;
        let mut by_build: BTreeMap<BuildId, Vec<QueueRow>> = BTreeMap::new();
        for row in rows {
            if let Ok(build) = row.build_id.parse::<BuildId>() {
                by_build.entry(build).or_default().push(row);
            }
        }
        let mut known: BTreeSet<BuildId> = self.queue.waiting().map(|w| w.build.clone()).collect();
        known.extend(self.queue.held().map(|(_, h)| h.build.clone()));
        known.extend(by_build.keys().cloned());
        for build in known {
            let rows = by_build.remove(&build).unwrap_or_default();
            let changed = self.apply(&build, &rows, start);
            if changed && !start {
                self.rescues += 1;
                tracing::warn!(build = %build, "the sweep found a change that nobody announced");
                crate::metrics::sweep_rescue(&self.app.health);
            }
        }
        Ok(())
    }

    /// Re-reads one build.
    pub(super) async fn refresh(&mut self, build: &BuildId) -> Result<(), StoreError> {
        let rows = self.app.db.queue_of_build(build).await?;
        self.apply(build, &rows, false);
        Ok(())
    }

    /// Makes the index say what the rows say; whether anything differed.
    fn apply(&mut self, build: &BuildId, rows: &[QueueRow], start: bool) -> bool {
        let mut changed = false;
        let mut gone: BTreeMap<StageId, bool> = self
            .queue
            .waiting()
            .filter(|w| &w.build == build)
            .map(|w| (w.stage.clone(), false))
            .collect();
        let held_here = self.queue.held().filter(|(_, h)| &h.build == build);
        gone.extend(held_here.map(|(stage, _)| (stage.clone(), true)));
        for row in rows {
            match read(row) {
                Some(Entry::Waiting(mut waiting)) => {
                    let was_held = gone.remove(&waiting.stage);
                    waiting.near = self.near.get(build).cloned();
                    if was_held == Some(true) {
                        self.settle(&waiting.stage, waiting.attempt);
                    }
                    if self.queue.get(&waiting.stage) != Some(waiting.as_ref()) {
                        changed |= was_held != Some(false);
                        self.queue.put(*waiting);
                    }
                }
                Some(Entry::Held(stage, attempt, held, weight)) => {
                    if gone.remove(&stage) != Some(true) {
                        changed = true;
                        self.near.insert(build.clone(), held.agent.clone());
                        self.hold(stage, attempt, *held, weight, start);
                    }
                }
                None => tracing::error!(stage = row.stage_id, "a row of the queue cannot be read"),
            }
        }
        for (stage, was_held) in gone {
            changed = true;
            if was_held {
                self.settle(&stage, 0);
            }
            self.queue.remove(&stage);
        }
        if rows.is_empty() {
            self.near.remove(build);
        }
        changed
    }

    fn hold(&mut self, stage: StageId, attempt: u32, held: Held, weight: u32, start: bool) {
        let now = self.app.clock.ticks();
        let event = if start {
            Event::Adopted((stage.clone(), attempt))
        } else {
            Event::Granted((stage.clone(), attempt))
        };
        self.grantor.handle(now, event);
        self.since.insert(stage.clone(), (now, weight));
        self.queue.hold(stage, held);
    }

    /// A held stage is not held any more: its lease ends, and its repository has used a slot.
    fn settle(&mut self, stage: &StageId, _next_attempt: u32) {
        let now = self.app.clock.ticks();
        self.grantor.end_of(now, stage);
        let repo = self
            .queue
            .held()
            .find(|(id, _)| *id == stage)
            .map(|(_, h)| h.repo.clone());
        if let (Some((since, weight)), Some(repo)) = (self.since.remove(stage), repo) {
            let wall = self.app.clock.now();
            self.queue.spend(&repo, weight, now.since(since), wall);
        }
    }
}
