//! The queue's index: every change costs the logarithm of what waits, and afterwards the first stage
//! of each kind can be read off.
//!
//! Stages of one repository, kind and group are a *class*; a class that may go on shows its first
//! stage in its repository's *line* of that kind, and the line's first stage gives the repository its
//! *spot* among its peers. A stage that backs off is in no class, a class whose group is full shows
//! nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::order::{Key, Kind, Level, Peers, Rank, Spot, Use};
use super::shard;
use super::snapshot::{Held, Waiting};
use crate::id::{AgentId, BuildId, RepoId, StageId};
use crate::pipeline::Group;
use crate::time::Timestamp;

pub(super) type KindId = u64;
pub(super) type ClassId = u64;

/// A waiting stage, and where it is in the index.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) stage: Waiting,
    pub(super) shard: u64,
    /// How often a later stage went before it.
    pub(super) passed: u8,
    pub(super) class: Option<ClassId>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Class {
    repo: RepoId,
    group: Option<(String, u32)>,
    /// Not of a build that holds the group: it is never full for its holder.
    build_group: Option<(String, u32)>,
    kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) struct Members {
    class: Class,
    kind: KindId,
    pub(super) keys: BTreeSet<Key>,
    shown: Option<Key>,
}

impl Members {
    pub(super) fn kind(&self) -> KindId {
        self.kind
    }

    /// Whether the order of its stages must be kept.
    pub(super) fn is_grouped(&self) -> bool {
        self.class.group.is_some() || self.class.build_group.is_some()
    }
}

/// The stages of one repository and kind that may be given out.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    pub(super) heads: BTreeSet<(Key, ClassId)>,
    spot: Option<(Peers, Spot)>,
}

#[derive(Clone, Debug)]
pub(super) struct Repo {
    pub(super) used: Use,
    pub(super) lines: BTreeMap<KindId, Line>,
    /// Its stages that wait, also those that back off.
    waiting: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Kinds {
    pub(super) kind: Kind,
    classes: u64,
    peers: BTreeMap<Peers, BTreeSet<Spot>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    pub(super) waiting: BTreeMap<StageId, Entry>,
    pub(super) held: BTreeMap<StageId, Held>,
    pub(super) builds: BTreeMap<BuildId, BTreeSet<StageId>>,
    pub(super) repos: BTreeMap<RepoId, Repo>,
    pub(super) busy: BTreeMap<AgentId, u32>,
    pub(super) kinds: BTreeMap<KindId, Kinds>,
    pub(super) classes: BTreeMap<ClassId, Members>,
    class_ids: BTreeMap<Class, ClassId>,
    kind_ids: BTreeMap<Kind, KindId>,
    next_id: u64,
    /// Stages that hold each stage group.
    pub(super) groups: BTreeMap<String, BTreeSet<StageId>>,
    /// Builds that hold each build group, by how many of their stages.
    pub(super) build_groups: BTreeMap<String, BTreeMap<BuildId, u32>>,
    grouped: BTreeMap<String, BTreeSet<ClassId>>,
    /// Stages with a back-off, by its end.
    pub(super) later: BTreeMap<Timestamp, BTreeSet<StageId>>,
    /// Back-offs that end later than this are not over.
    as_of: Timestamp,
    /// Kinds that changed since somebody looked.
    pub(super) dirty: BTreeSet<KindId>,
}

/// Removes from a set inside a map, and the set when it is empty.
fn take_out<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}

impl Index {
    pub(super) fn put(&mut self, stage: Waiting, passed: u8) {
        let id = stage.stage.clone();
        // Before the removal, which may forget the repository and its weight.
        self.repo(&stage.repo).waiting += 1;
        self.remove(&id);
        let stages = self.builds.entry(stage.build.clone()).or_default();
        stages.insert(id.clone());
        if stage.not_before > Timestamp::EPOCH {
            let stages = self.later.entry(stage.not_before).or_default();
            stages.insert(id.clone());
        }
        let holds = stage.build_group.clone().filter(|_| stage.build_begun);
        let build = stage.build.clone();
        let entry = Entry {
            shard: shard::key(&stage),
            stage,
            passed,
            class: None,
        };
        self.waiting.insert(id.clone(), entry);
        if let Some(group) = holds {
            self.take_build_group(&group.name, &build);
        }
        self.place(&id);
    }

    /// How much a repository may use.
    pub(super) fn weigh(&mut self, repo: &RepoId, weight: u32) {
        let used = &mut self.repo(repo).used;
        if used.weight != weight.max(1) {
            used.weight = weight.max(1);
            self.touch_repo(repo);
        }
    }

    pub(super) fn hold(&mut self, stage: StageId, held: Held) {
        self.repo(&held.repo).used.running += 1;
        self.remove(&stage);
        *self.busy.entry(held.agent.clone()).or_default() += 1;
        self.touch_repo(&held.repo);
        let stages = self.builds.entry(held.build.clone()).or_default();
        stages.insert(stage.clone());
        if let Some(group) = &held.group {
            let holders = self.groups.entry(group.clone()).or_default();
            holders.insert(stage.clone());
            self.regroup(group);
        }
        if let Some(group) = &held.build_group {
            self.take_build_group(group, &held.build);
        }
        self.held.insert(stage, held);
    }

    pub(super) fn remove(&mut self, stage: &StageId) {
        if let Some(held) = self.held.remove(stage) {
            self.let_go(stage, &held);
        }
        let Some(entry) = self.waiting.remove(stage) else {
            return;
        };
        let known = entry.stage;
        if let Some(class) = entry.class {
            self.leave(class, &Key::of(&known));
        }
        take_out(&mut self.later, &known.not_before, stage);
        take_out(&mut self.builds, &known.build, stage);
        if let Some(group) = known.build_group.filter(|_| known.build_begun) {
            self.leave_build_group(&group.name, &known.build);
        }
        self.repo(&known.repo).waiting -= 1;
        self.forget_repo(&known.repo);
    }

    fn let_go(&mut self, stage: &StageId, held: &Held) {
        if let Some(busy) = self.busy.get_mut(&held.agent) {
            *busy = busy.saturating_sub(1);
            if *busy == 0 {
                self.busy.remove(&held.agent);
            }
        }
        let used = &mut self.repo(&held.repo).used;
        used.running = used.running.saturating_sub(1);
        self.touch_repo(&held.repo);
        take_out(&mut self.builds, &held.build, stage);
        if let Some(group) = &held.group {
            take_out(&mut self.groups, group, stage);
            self.regroup(group);
        }
        if let Some(group) = &held.build_group {
            self.leave_build_group(group, &held.build);
        }
        self.forget_repo(&held.repo);
    }

    pub(super) fn repo(&mut self, repo: &RepoId) -> &mut Repo {
        self.repos.entry(repo.clone()).or_insert_with(|| Repo {
            used: Use {
                running: 0,
                weight: 1,
                level: Level::NONE,
            },
            lines: BTreeMap::new(),
            waiting: 0,
        })
    }

    fn forget_repo(&mut self, repo: &RepoId) {
        if self.repos.get(repo).is_some_and(|known| {
            known.used.running == 0 && known.used.level == Level::NONE && known.waiting == 0
        }) {
            self.repos.remove(repo);
        }
    }

    /// Lets stages in whose back-off is over at `now`, and out where the clock went back.
    pub(super) fn advance(&mut self, now: Timestamp) {
        use std::ops::Bound::{Excluded, Included};
        let (from, to) = (self.as_of.min(now), self.as_of.max(now));
        self.as_of = now;
        if from == to {
            return;
        }
        let changed = self.later.range((Excluded(from), Included(to)));
        let changed: Vec<StageId> = changed.flat_map(|(_, stages)| stages).cloned().collect();
        for stage in changed {
            self.place(&stage);
        }
    }

    fn take_build_group(&mut self, group: &str, build: &BuildId) {
        let builds = self.build_groups.entry(group.to_owned()).or_default();
        let count = builds.entry(build.clone()).or_default();
        *count += 1;
        if *count == 1 {
            self.holder_changed(group, build);
        }
    }

    fn leave_build_group(&mut self, group: &str, build: &BuildId) {
        let Some(builds) = self.build_groups.get_mut(group) else {
            return;
        };
        if let Some(count) = builds.get_mut(build) {
            *count = count.saturating_sub(1);
            if *count > 0 {
                return;
            }
        }
        builds.remove(build);
        if builds.is_empty() {
            self.build_groups.remove(group);
        }
        self.holder_changed(group, build);
    }

    /// The stages of a build that holds its group wait for nobody else.
    fn holder_changed(&mut self, group: &str, build: &BuildId) {
        let of_group = |stage: &&StageId| {
            let entry = self.waiting.get(*stage);
            let named = entry.and_then(|entry| entry.stage.build_group.as_ref());
            named.is_some_and(|named| named.name == group)
        };
        let stages = self.builds.get(build).into_iter().flatten();
        let stages: Vec<StageId> = stages.filter(of_group).cloned().collect();
        for stage in stages {
            self.place(&stage);
        }
        self.regroup(group);
    }

    fn regroup(&mut self, group: &str) {
        let classes = self.grouped.get(group).into_iter().flatten();
        let classes: Vec<ClassId> = classes.copied().collect();
        for class in classes {
            self.show(class);
        }
    }

    /// Puts a waiting stage into the class it belongs to now.
    fn place(&mut self, id: &StageId) {
        let Some(entry) = self.waiting.get(id) else {
            return;
        };
        let stage = &entry.stage;
        let (old, key) = (entry.class, Key::of(stage));
        let limit = |group: &Group| (group.name.clone(), group.limit);
        let class = (stage.not_before <= self.as_of).then(|| Class {
            repo: stage.repo.clone(),
            group: stage.group.as_ref().map(limit),
            build_group: stage
                .build_group
                .as_ref()
                .filter(|group| !self.holds(&group.name, &stage.build))
                .map(limit),
            kind: Kind::of(stage),
        });
        let new = class.map(|class| self.class(class));
        if new == old {
            return;
        }
        if let Some(entry) = self.waiting.get_mut(id) {
            entry.class = new;
        }
        if let Some(new) = new {
            if let Some(members) = self.classes.get_mut(&new) {
                members.keys.insert(key.clone());
            }
            self.show(new);
        }
        if let Some(old) = old {
            self.leave(old, &key);
        }
    }

    pub(super) fn holds(&self, group: &str, build: &BuildId) -> bool {
        let builds = self.build_groups.get(group);
        builds.is_some_and(|builds| builds.contains_key(build))
    }

    /// The number of a class, made when it is new.
    fn class(&mut self, class: Class) -> ClassId {
        if let Some(known) = self.class_ids.get(&class) {
            return *known;
        }
        self.next_id += 2;
        let (id, fresh) = (self.next_id, self.next_id + 1);
        let kind = *self.kind_ids.entry(class.kind.clone()).or_insert(fresh);
        let of_kind = self.kinds.entry(kind).or_insert_with(|| Kinds {
            kind: class.kind.clone(),
            classes: 0,
            peers: BTreeMap::new(),
        });
        of_kind.classes += 1;
        for (group, _) in class.group.iter().chain(&class.build_group) {
            self.grouped.entry(group.clone()).or_default().insert(id);
        }
        self.class_ids.insert(class.clone(), id);
        let members = Members {
            class,
            kind,
            keys: BTreeSet::new(),
            shown: None,
        };
        self.classes.insert(id, members);
        id
    }

    fn leave(&mut self, id: ClassId, key: &Key) {
        let Some(members) = self.classes.get_mut(&id) else {
            return;
        };
        members.keys.remove(key);
        let empty = members.keys.is_empty();
        self.show(id);
        if !empty {
            return;
        }
        let Some(Members { class, kind, .. }) = self.classes.remove(&id) else {
            return;
        };
        for (group, _) in class.group.iter().chain(&class.build_group) {
            take_out(&mut self.grouped, group, &id);
        }
        self.class_ids.remove(&class);
        if let Some(of_kind) = self.kinds.get_mut(&kind) {
            of_kind.classes -= 1;
            if of_kind.classes == 0 {
                self.kinds.remove(&kind);
                self.kind_ids.remove(&class.kind);
            }
        }
    }

    /// The group that keeps a class from going on.
    pub(super) fn full_group<'a>(&self, members: &'a Members) -> Option<(&'a str, u32)> {
        let class = &members.class;
        if let Some((name, limit)) = &class.group {
            let holders = self.groups.get(name).map_or(0, BTreeSet::len);
            if holders >= *limit as usize {
                return Some((name, *limit));
            }
        }
        let (name, limit) = class.build_group.as_ref()?;
        let holders = self.build_groups.get(name).map_or(0, BTreeMap::len);
        (holders >= *limit as usize).then_some((name, *limit))
    }

    /// Shows the first stage of a class in its repository's line, if it may go on.
    fn show(&mut self, id: ClassId) {
        let Some(members) = self.classes.get(&id) else {
            return;
        };
        let open = self.full_group(members).is_none();
        let head = members.keys.first().filter(|_| open).cloned();
        let Some(members) = self.classes.get_mut(&id) else {
            return;
        };
        if members.shown == head {
            return;
        }
        let old = std::mem::replace(&mut members.shown, head.clone());
        let (repo, kind) = (members.class.repo.clone(), members.kind);
        let line = self.repo(&repo).lines.entry(kind).or_default();
        if let Some(old) = old {
            line.heads.remove(&(old, id));
        }
        if let Some(head) = head {
            line.heads.insert((head, id));
        }
        self.touch_line(&repo, kind);
    }

    pub(super) fn touch_repo(&mut self, repo: &RepoId) {
        let lines = self.repos.get(repo).into_iter();
        let kinds: Vec<KindId> = lines.flat_map(|r| r.lines.keys()).copied().collect();
        for kind in kinds {
            self.touch_line(repo, kind);
        }
    }

    fn touch_line(&mut self, repo: &RepoId, kind: KindId) {
        let Some(known) = self.repos.get_mut(repo) else {
            return;
        };
        let Some(line) = known.lines.get_mut(&kind) else {
            return;
        };
        let spot = line.heads.first().map(|(head, _)| {
            let spot = Spot {
                level: known.used.level,
                head: head.clone(),
                repo: repo.clone(),
            };
            (Peers::of(&known.used, head), spot)
        });
        if line.spot == spot {
            return;
        }
        let old = std::mem::replace(&mut line.spot, spot.clone());
        if line.heads.is_empty() {
            known.lines.remove(&kind);
        }
        self.dirty.insert(kind);
        let Some(of_kind) = self.kinds.get_mut(&kind) else {
            return;
        };
        if let Some((peers, old)) = old {
            take_out(&mut of_kind.peers, &peers, &old);
        }
        if let Some((peers, spot)) = spot {
            of_kind.peers.entry(peers).or_default().insert(spot);
        }
    }

    /// The first stage of a kind in the order of all, and its repository.
    pub(super) fn first(&self, kind: KindId, now: Timestamp) -> Option<(Rank<'_>, &RepoId)> {
        let firsts = self.kinds.get(&kind)?.peers.iter();
        let firsts = firsts.filter_map(|(peers, spots)| Some((peers, spots.first()?)));
        let ranked = firsts.map(|(peers, spot)| {
            let share = peers.share(spot.level, now);
            (Rank::of(share, spot.level, &spot.head), &spot.repo)
        });
        ranked.min()
    }

    /// The first stages of a line, at most `count`. Of a class with a group only the first counts:
    /// the order in a group is kept.
    pub(super) fn front(&self, repo: &RepoId, kind: KindId, count: usize) -> Vec<&Key> {
        let line = self.repos.get(repo).and_then(|r| r.lines.get(&kind));
        let heads = line.into_iter().flat_map(|line| &line.heads).take(count);
        let mut keys: Vec<&Key> = heads
            .filter_map(|(_, class)| self.classes.get(class))
            .flat_map(|members| {
                let visible = if members.is_grouped() { 1 } else { count };
                members.keys.iter().take(visible)
            })
            .collect();
        keys.sort();
        keys.truncate(count);
        keys
    }
}
