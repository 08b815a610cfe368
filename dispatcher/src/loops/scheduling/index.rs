//! Keeping the index equal to the store.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use slipway_core::build::back_off_end;
use slipway_core::id::{BuildId, RepoId, StageId};
use slipway_core::lease::grantor::Event;
use slipway_core::pipeline::Group;
use slipway_core::queue::{Held, Waiting};
use slipway_core::time::Timestamp;
use slipway_store::{QueueRow, StoreError};

use super::Scheduler;

/// Builds that are read at once: the store reads so many in one statement.
const READ_AT_ONCE: usize = 64;

/// A row of the queue, read.
enum Entry {
    Waiting(Box<Waiting>),
    Held(StageId, u32, Box<Held>),
}

fn read(row: &QueueRow, now: Timestamp) -> Option<Entry> {
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
            weight: u32::try_from(row.weight).unwrap_or(1),
            name: row.stage_name.clone(),
            cache_key: row.cache_key.clone(),
            priority: u8::try_from(row.priority).unwrap_or(5),
            urgent: row.urgent == 1,
            ready_at: Timestamp::from_millis(row.ready_ms.unwrap_or(0)),
            not_before: back_off_end(Timestamp::from_millis(row.not_before_ms), now),
            labels: serde_json::from_str(&row.labels).unwrap_or_default(),
            group,
            build_group,
            build_begun: row.build_status == "building",
            critical: Duration::from_millis(u64::try_from(row.critical_ms).unwrap_or(0)),
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
    Some(Entry::Held(stage, attempt, Box::new(held)))
}

fn by_build(rows: Vec<QueueRow>) -> BTreeMap<BuildId, Vec<QueueRow>> {
    let mut builds: BTreeMap<BuildId, Vec<QueueRow>> = BTreeMap::new();
    for row in rows {
        if let Ok(build) = row.build_id.parse::<BuildId>() {
            builds.entry(build).or_default().push(row);
        }
    }
    builds
}

impl Scheduler {
    /// Reads everything, at the start.
    pub(super) async fn load(&mut self) -> Result<(), StoreError> {
        let rows = self.app.db.queue().await?;
        let mut builds = by_build(rows);
        for known in self.queue.builds() {
            builds.entry(known.clone()).or_default();
        }
        for (build, rows) in builds {
            self.apply(&build, &rows, true);
        }
        Ok(())
    }

    /// Re-reads the next part of everything: a long queue is read in several sweeps, so that none
    /// holds up what is placed meanwhile. Whatever differs was not announced, and is counted.
    pub(super) async fn sweep(&mut self) -> Result<(), StoreError> {
        let after = self.swept_to.take();
        let (rows, end) = self.app.db.queue_after(after.as_ref()).await?;
        let mut builds = by_build(rows);
        for known in self.queue.builds_between(after.as_ref(), end.as_ref()) {
            builds.entry(known.clone()).or_default();
        }
        for (build, rows) in builds {
            if self.apply(&build, &rows, false) {
                self.rescues += 1;
                tracing::warn!(build = %build, "the sweep found a change that nobody announced");
                crate::metrics::sweep_rescue(&self.app.health);
            }
        }
        self.swept_to = end;
        Ok(())
    }

    /// Re-reads one build.
    pub(super) async fn refresh(&mut self, build: &BuildId) -> Result<(), StoreError> {
        let rows = self.app.db.queue_of_build(build).await?;
        self.apply(build, &rows, false);
        Ok(())
    }

    /// Re-reads several builds, at once.
    pub(super) async fn refresh_all(&mut self, builds: Vec<BuildId>) -> Result<(), StoreError> {
        let db = &self.app.db;
        let read = builds.into_iter().map(|build| async move {
            let rows = db.queue_of_build(&build).await?;
            Ok::<_, StoreError>((build, rows))
        });
        let read = futures::stream::iter(read).buffered(READ_AT_ONCE);
        let read: Vec<(BuildId, Vec<QueueRow>)> = read.try_collect().await?;
        for (build, rows) in read {
            self.apply(&build, &rows, false);
        }
        Ok(())
    }

    /// Makes the index say what the rows say; whether anything differed.
    fn apply(&mut self, build: &BuildId, rows: &[QueueRow], start: bool) -> bool {
        let mut changed = false;
        let now = self.app.clock.now();
        let mut gone: BTreeMap<StageId, bool> = self
            .queue
            .of_build(build)
            .map(|stage| (stage.clone(), self.queue.holder(stage).is_some()))
            .collect();
        for row in rows {
            if row.state == "ready" && row.memo == "ask" {
                // Nobody executes it before it was looked up.
                self.to_recall.insert(build.clone());
                continue;
            }
            match read(row, now) {
                Some(Entry::Waiting(mut waiting)) => {
                    let was_held = gone.remove(&waiting.stage);
                    waiting.near = self.near.get(build).cloned();
                    if was_held == Some(true) {
                        self.settle(&waiting.stage);
                    }
                    if self.queue.get(&waiting.stage) != Some(waiting.as_ref()) {
                        changed |= was_held != Some(false);
                        self.queue.put(*waiting);
                    }
                }
                Some(Entry::Held(stage, attempt, held)) => {
                    if gone.remove(&stage) != Some(true) {
                        changed = true;
                        self.near.insert(build.clone(), held.agent.clone());
                        self.hold(stage, attempt, *held, start);
                    }
                }
                None => tracing::error!(stage = row.stage_id, "a row of the queue cannot be read"),
            }
        }
        for (stage, was_held) in gone {
            changed = true;
            if was_held {
                self.settle(&stage);
            }
            self.queue.remove(&stage);
        }
        if rows.is_empty() {
            self.near.remove(build);
        }
        changed
    }

    fn hold(&mut self, stage: StageId, attempt: u32, held: Held, start: bool) {
        let now = self.app.clock.ticks();
        let event = if start {
            Event::Adopted((stage.clone(), attempt))
        } else {
            Event::Granted((stage.clone(), attempt))
        };
        self.grantor.handle(now, event);
        self.since.insert(stage.clone(), now);
        self.queue.hold(stage, held);
    }

    /// A held stage is not held any more: its lease ends, and its repository has used a slot.
    fn settle(&mut self, stage: &StageId) {
        let now = self.app.clock.ticks();
        self.grantor.end_of(now, stage);
        let repo = self.queue.holder(stage).map(|held| held.repo.clone());
        if let (Some(since), Some(repo)) = (self.since.remove(stage), repo) {
            let wall = self.app.clock.now();
            self.queue.spend(&repo, now.since(since), wall);
        }
    }
}
