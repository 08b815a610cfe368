//! Which of the waiting stages an agent could execute now, if there were one: neither those after a
//! loss that still wait, nor those that a concurrency group keeps. (What waits for an approval or for
//! another stage is not in the queue at all.)

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{BuildId, RepoId};
use crate::pipeline::Group;
use crate::queue::{Held, Waiting};
use crate::time::Timestamp;

/// Waiting stages that are looked at: as many as fill the largest pools many times over, and few
/// enough that looking costs the scheduler nothing.
pub const LOOKED_AT: usize = 20_000;

/// Stages of one name that ask for the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Demand {
    /// Whose.
    pub repo: RepoId,
    /// The stage's name, by which its time is expected.
    pub name: String,
    /// Labels that an agent must have.
    pub labels: BTreeMap<String, String>,
}

/// Counts what could be executed now.
#[must_use]
pub fn demand<'a>(
    waiting: impl Iterator<Item = &'a Waiting>,
    held: impl Iterator<Item = &'a Held>,
    now: Timestamp,
) -> BTreeMap<Demand, u32> {
    let waiting: Vec<&Waiting> = waiting.take(LOOKED_AT).collect();
    let mut groups = Groups::default();
    for held in held {
        if let Some(group) = &held.group {
            *groups.stages.entry(group.clone()).or_default() += 1;
        }
        if let Some(group) = &held.build_group {
            groups.join(group, &held.build);
        }
    }
    for stage in &waiting {
        // A build that has begun keeps its group between two of its stages.
        if let (Some(group), true) = (&stage.build_group, stage.build_begun) {
            groups.join(&group.name, &stage.build);
        }
    }
    let mut counted: BTreeMap<Demand, u32> = BTreeMap::new();
    for stage in waiting {
        if stage.not_before > now || !groups.take(stage) {
            continue;
        }
        let demand = Demand {
            repo: stage.repo.clone(),
            name: stage.name.clone(),
            labels: stage.labels.clone(),
        };
        *counted.entry(demand).or_default() += 1;
    }
    counted
}

#[derive(Default)]
struct Groups {
    stages: BTreeMap<String, u32>,
    builds: BTreeMap<String, BTreeSet<BuildId>>,
}

impl Groups {
    fn join(&mut self, group: &str, build: &BuildId) {
        let builds = self.builds.entry(group.to_owned()).or_default();
        builds.insert(build.clone());
    }

    /// Takes a place in the stage's groups, if both have one.
    fn take(&mut self, stage: &Waiting) -> bool {
        let full = |held: u32, group: &Group| held >= group.limit;
        if let Some(group) = &stage.group {
            let held = self.stages.get(&group.name).copied().unwrap_or(0);
            if full(held, group) {
                return false;
            }
        }
        if let Some(group) = &stage.build_group {
            let holders = self.builds.get(&group.name);
            let inside = holders.is_some_and(|builds| builds.contains(&stage.build));
            let count = holders.map_or(0, BTreeSet::len);
            if !inside && full(u32::try_from(count).unwrap_or(u32::MAX), group) {
                return false;
            }
            self.join(&group.name, &stage.build);
        }
        if let Some(group) = &stage.group {
            *self.stages.entry(group.name.clone()).or_default() += 1;
        }
        true
    }
}
