//! One planning pass. It takes what it gives out tentatively, so that the index shows what is next,
//! and puts all of it back at its end: whether a plan holds is known once it is persisted.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use super::fit::{self, HOME, Score};
use super::index::{Entry, Index, KindId};
use super::order::{Key, Kind, Rank};
use super::shard;
use super::snapshot::{Agent, Held};
use super::{Assignment, Plan};
use crate::id::{AgentId, RepoId, StageId};
use crate::time::Timestamp;

/// Among so many of the first stages of one repository, kind and priority an agent may prefer one
/// that it is home to.
pub(super) const LOOKAHEAD: usize = 8;
/// A stage is passed over at most so often.
pub(super) const BYPASS_MAX: u8 = 3;

/// An agent in this pass.
struct Seat<'a> {
    id: &'a AgentId,
    agent: &'a Agent,
    seed: u64,
    busy: u32,
}

/// A stage to be given out: which, to which seat, and before which others.
struct Choice {
    stage: StageId,
    seat: usize,
    over: Vec<StageId>,
}

struct Pass<'a> {
    agents: &'a BTreeMap<AgentId, Agent>,
    now: Timestamp,
    seats: Vec<Seat<'a>>,
    /// Seats that can take something.
    open: Vec<usize>,
    /// The first stage of each kind that some open seat may suit.
    firsts: BTreeMap<KindId, First>,
    /// Kinds that no open seat suits; seats only become fewer.
    dead: BTreeSet<KindId>,
}

/// A rank that outlives the change of the index.
struct First {
    share: u64,
    level: super::order::Level,
    key: Key,
    repo: RepoId,
}

impl First {
    fn rank(&self) -> Rank<'_> {
        Rank::of(self.share, self.level, &self.key)
    }
}

/// Gives out as many stages as fit.
pub(super) fn plan(index: &mut Index, agents: &BTreeMap<AgentId, Agent>, now: Timestamp) -> Plan {
    index.advance(now);
    let mut pass = Pass::new(index, agents, now);
    let mut taken: Vec<Entry> = Vec::new();
    let mut assignments = Vec::new();
    while let Some(choice) = pass.choose(index) {
        let Some(entry) = index.waiting.get(&choice.stage).cloned() else {
            break;
        };
        let Some(assignment) = pass.take(index, &entry, choice) else {
            break;
        };
        assignments.push(assignment);
        taken.push(entry);
    }
    for entry in taken.into_iter().rev() {
        index.put(entry.stage, entry.passed);
    }
    for stage in assignments.iter().flat_map(|a: &Assignment| &a.over) {
        if let Some(entry) = index.waiting.get_mut(stage) {
            entry.passed = entry.passed.saturating_sub(1);
        }
    }
    let wake_at = index.later.range((Excluded(now), Unbounded)).next();
    Plan {
        assignments,
        wake_at: wake_at.map(|(at, _)| *at),
    }
}

impl<'a> Pass<'a> {
    fn new(index: &mut Index, agents: &'a BTreeMap<AgentId, Agent>, now: Timestamp) -> Self {
        let seats: Vec<Seat<'a>> = agents
            .iter()
            .map(|(id, agent)| Seat {
                id,
                agent,
                seed: shard::seed(id),
                busy: index.busy.get(id).copied().unwrap_or(0),
            })
            .collect();
        let open = seats.iter().enumerate();
        let open = open.filter(|(_, seat)| fit::can_take(seat.agent, seat.busy).is_ok());
        let mut pass = Self {
            agents,
            now,
            open: open.map(|(at, _)| at).collect(),
            seats,
            firsts: BTreeMap::new(),
            dead: BTreeSet::new(),
        };
        index.dirty.clear();
        if !pass.open.is_empty() {
            for kind in index.kinds.keys() {
                pass.look(index, *kind);
            }
        }
        pass
    }

    fn suits(&self, seat: usize, kind: &Kind) -> bool {
        let seat = self.seats.get(seat);
        seat.is_some_and(|seat| fit::suits(seat.id, seat.agent, self.agents, kind).is_ok())
    }

    /// Notes which stage of a kind is first now.
    fn look(&mut self, index: &Index, id: KindId) {
        self.firsts.remove(&id);
        if self.dead.contains(&id) {
            return;
        }
        let Some(of_kind) = index.kinds.get(&id) else {
            return;
        };
        if !self
            .open
            .iter()
            .any(|seat| self.suits(*seat, &of_kind.kind))
        {
            self.dead.insert(id);
            return;
        }
        if let Some((rank, repo)) = index.first(id, self.now) {
            let first = First {
                share: rank.share(),
                level: rank.level(),
                key: rank.key.clone(),
                repo: repo.clone(),
            };
            self.firsts.insert(id, first);
        }
    }

    /// The next stage in order that some agent can take, and the agent.
    fn choose(&mut self, index: &Index) -> Option<Choice> {
        loop {
            let firsts = self.firsts.iter();
            let (kind, first) = firsts.min_by(|a, b| a.1.rank().cmp(&b.1.rank()))?;
            let kind = *kind;
            let demands = &index.kinds.get(&kind)?.kind;
            let open = self.open.iter().copied();
            let candidates: Vec<usize> = open.filter(|seat| self.suits(*seat, demands)).collect();
            if !candidates.is_empty() {
                return self.prefer(index, kind, demands, first, &candidates);
            }
            self.firsts.remove(&kind);
            self.dead.insert(kind);
        }
    }

    /// The first stage, or one shortly behind it that a candidate is home to.
    fn prefer(
        &self,
        index: &Index,
        kind: KindId,
        demands: &Kind,
        first: &First,
        candidates: &[usize],
    ) -> Option<Choice> {
        let residents = self.seats.iter().enumerate();
        let residents: Vec<(usize, u64, u32)> = residents
            .filter(|(at, seat)| fit::present(seat.agent) && self.suits(*at, demands))
            .map(|(at, seat)| (at, seat.seed, seat.agent.slots))
            .collect();
        let entry = index.waiting.get(&first.key.stage)?;
        let (seat, score) = self.best(entry, candidates, &residents)?;
        let own = Choice {
            stage: first.key.stage.clone(),
            seat,
            over: Vec::new(),
        };
        if score.locality >= HOME {
            return Some(own);
        }
        let mut over = Vec::new();
        for key in index.front(&first.repo, kind, LOOKAHEAD) {
            let other = index.waiting.get(&key.stage)?;
            let equal = other.stage.urgent == entry.stage.urgent
                && other.stage.priority == entry.stage.priority;
            if !equal {
                break;
            }
            let (seat, score) = self.best(other, candidates, &residents)?;
            if score.locality >= HOME {
                let stage = key.stage.clone();
                return Some(Choice { stage, seat, over });
            }
            if other.passed >= BYPASS_MAX {
                break;
            }
            over.push(key.stage.clone());
        }
        Some(own)
    }

    fn best(
        &self,
        entry: &Entry,
        candidates: &[usize],
        residents: &[(usize, u64, u32)],
    ) -> Option<(usize, Score)> {
        let homes = shard::homes(entry.shard, residents.iter().copied());
        let scored = candidates.iter().filter_map(|at| {
            let seat = self.seats.get(*at)?;
            let agent = (seat.id, seat.agent, seat.seed, seat.busy);
            let is_home = homes.contains(&Some(*at));
            Some((*at, Score::of(agent, (&entry.stage, entry.shard), is_home)))
        });
        scored.max_by(|a, b| a.1.compare(&b.1).then_with(|| b.0.cmp(&a.0)))
    }

    fn take(&mut self, index: &mut Index, entry: &Entry, choice: Choice) -> Option<Assignment> {
        let seat = self.seats.get_mut(choice.seat)?;
        seat.busy += 1;
        let agent = seat.id.clone();
        if fit::can_take(seat.agent, seat.busy).is_err() {
            self.open.retain(|at| *at != choice.seat);
        }
        for stage in &choice.over {
            if let Some(passed) = index.waiting.get_mut(stage) {
                passed.passed += 1;
            }
        }
        index.hold(choice.stage, Held::of(&entry.stage, &agent));
        for kind in std::mem::take(&mut index.dirty) {
            self.look(index, kind);
        }
        Some(Assignment {
            stage: entry.stage.stage.clone(),
            attempt: entry.stage.attempt,
            agent,
            over: choice.over,
        })
    }
}
