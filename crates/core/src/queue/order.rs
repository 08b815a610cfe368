//! Which stage is next. Stages of one repository and one kind differ only by order, and that order
//! does not change with time; neither does the order of two repositories that have equally many slots
//! and the same weight. So a queue of any length is planned by looking at the first of each.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::snapshot::Waiting;
use crate::id::{AgentId, RepoId, StageId};
use crate::time::Timestamp;

/// A stage's priority rises by one each time it has waited so long.
pub const AGING: Duration = Duration::from_secs(600);
/// Past use counts half after this time.
pub const HALF_LIFE: Duration = Duration::from_secs(600);
/// A slot in use weighs as much as this much past use.
const RUNNING_WEIGHT: Duration = Duration::from_secs(60);

/// What decides which agents may take a stage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) lost_by: BTreeSet<AgentId>,
}

impl Kind {
    pub(super) fn of(stage: &Waiting) -> Self {
        Self {
            labels: stage.labels.clone(),
            lost_by: stage.lost_by.clone(),
        }
    }
}

/// The order inside one repository; smaller = earlier.
///
/// Priority plus one per [`AGING`] waited is, for comparing two stages at the same instant, the same
/// as the instant at which each became ready, moved back by its priority: a number that stays.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) not_urgent: bool,
    due: i64,
    shorter: Reverse<Duration>,
    ready: i64,
    pub(super) stage: StageId,
}

impl Key {
    pub(super) fn of(stage: &Waiting) -> Self {
        let step = i64::try_from(AGING.as_millis()).unwrap_or(i64::MAX);
        let lead = step.saturating_mul(i64::from(stage.priority));
        Self {
            not_urgent: !stage.urgent,
            due: stage.ready_at.as_millis().saturating_sub(lead),
            shorter: Reverse(stage.critical),
            ready: stage.ready_at.as_millis(),
            stage: stage.stage.clone(),
        }
    }
}

/// Past use on a scale on which it does not decay: the binary logarithm of its seconds, plus one for
/// each [`HALF_LIFE`] since 1970. Of two repositories the one that has used more stays the one that
/// has used more, however long nobody looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level(f64);

impl Level {
    /// Nothing was used.
    pub(super) const NONE: Self = Self(f64::NEG_INFINITY);

    /// Seconds that are left of the use at `now`.
    fn seconds(self, now: Timestamp) -> f64 {
        (self.0 - half_lives(now)).exp2()
    }

    /// With use that ended at `now`.
    pub(super) fn with(self, slot_time: Duration, now: Timestamp) -> Self {
        let seconds = self.seconds(now) + slot_time.as_secs_f64();
        Self(seconds.log2() + half_lives(now))
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds since 1970 fit until the year 287 000"
)]
fn half_lives(now: Timestamp) -> f64 {
    now.as_millis() as f64 / HALF_LIFE.as_secs_f64() / 1_000.0
}

impl PartialEq for Level {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Level {}

impl PartialOrd for Level {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Level {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// How much a repository uses: slots now, and before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Use {
    pub(super) running: u32,
    pub(super) weight: u32,
    pub(super) level: Level,
}

impl Use {
    /// What fair share compares, in microseconds of slot time for the repository's weight.
    pub(super) fn share(&self, now: Timestamp) -> u64 {
        let running = RUNNING_WEIGHT.as_secs_f64() * f64::from(self.running);
        let seconds = self.level.seconds(now) + running;
        let micros = seconds / f64::from(self.weight.max(1)) * 1e6;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the cast saturates, and what is compared is never negative"
        )]
        let micros = micros as u64;
        micros
    }
}

/// Repositories whose order among each other does not change with time, within one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Peers {
    not_urgent: bool,
    running: u32,
    weight: u32,
}

impl Peers {
    pub(super) fn of(used: &Use, head: &Key) -> Self {
        Self {
            not_urgent: head.not_urgent,
            running: used.running,
            weight: used.weight,
        }
    }

    pub(super) fn share(&self, level: Level, now: Timestamp) -> u64 {
        let (running, weight) = (self.running, self.weight);
        let used = Use {
            running,
            weight,
            level,
        };
        used.share(now)
    }
}

/// Where a repository stands among its peers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot {
    pub(super) level: Level,
    pub(super) head: Key,
    pub(super) repo: RepoId,
}

/// The order of all stages at one instant; smaller = earlier.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank<'a> {
    not_urgent: bool,
    share: u64,
    level: Level,
    pub(super) key: &'a Key,
}

impl<'a> Rank<'a> {
    /// `share` and `level` are those of the stage's repository.
    pub(super) fn of(share: u64, level: Level, key: &'a Key) -> Self {
        Self {
            not_urgent: key.not_urgent,
            share,
            level,
            key,
        }
    }

    pub(super) fn share(&self) -> u64 {
        self.share
    }

    pub(super) fn level(&self) -> Level {
        self.level
    }
}
