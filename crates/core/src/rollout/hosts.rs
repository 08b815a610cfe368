//! A service on several hosts, each with a router of its own: which host gets how many instances, which table each
//! router gets, what their answers mean together, and when a host that says nothing is gone on without.
//!
//! Does not own connections or clocks: how long a host has said nothing is told. Instances are known by
//! `<name>@<host>`; one without `@` is of the only host. Invariants: a router only gets instances of its own host;
//! every table given out sums to everything, on versions that have instances there; nothing goes further on less than
//! the greater half of the hosts; the way back waits for nobody who is silent.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::snapshot::InstanceView;
use crate::time::Timestamp;
use crate::traffic::{FULL_BP, Fence, Instance, Share, TrafficTable};

/// Hosts of one environment.
pub const HOSTS_MAX: usize = 100;
/// Hosts that are changed at once, after the first.
pub const HOSTS_AT_ONCE: usize = 16;
/// Engine and router both silent for so long: the host is dead, and leaves.
const DEAD_AFTER: Duration = Duration::from_secs(15);
/// A router that nobody reached for so long has no leased weight any more: its lease (60 s) is over, and it gave stable
/// everything by itself. Before that its host may be cut off and serve the new version.
const CUT_AFTER: Duration = Duration::from_secs(75);
/// On the way back whoever says nothing for so long is not waited for.
const BACK_AFTER: Duration = Duration::from_secs(3);

/// What was last known to be wrong with a host, as it is kept with a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostTrouble {
    /// The host.
    pub name: String,
    /// In words.
    pub text: String,
    /// Since when.
    pub since: Timestamp,
}

/// What is wrong with hosts now: what was known before keeps its time.
#[must_use]
pub fn troubles(hosts: &[HostView], before: &[HostTrouble], now: Timestamp) -> Vec<HostTrouble> {
    let trouble = |host: &HostView| {
        let text = host.trouble()?;
        let known = before.iter().find(|one| one.name == host.name);
        Some(HostTrouble {
            name: host.name.clone(),
            text,
            since: known.map_or(now, |one| one.since),
        })
    };
    hosts.iter().filter_map(trouble).collect()
}

/// One host, as far as it can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostView {
    /// Its name.
    pub name: String,
    /// For how long its engine has said nothing; `None` = it answers.
    pub engine_silent: Option<Duration>,
    /// The same of its router.
    pub router_silent: Option<Duration>,
    /// What was wrong last.
    pub why: String,
}

impl HostView {
    /// Whether the rollout goes on without it.
    #[must_use]
    pub fn is_out(&self) -> bool {
        let Some(router) = self.router_silent else {
            return false;
        };
        let dead = self
            .engine_silent
            .is_some_and(|engine| engine >= DEAD_AFTER);
        router >= CUT_AFTER || (dead && router >= DEAD_AFTER)
    }

    /// Whether anything of it does not answer.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.engine_silent.is_some() || self.router_silent.is_some()
    }

    /// Whether the way back waits for its router.
    #[must_use]
    pub fn is_awaited_back(&self) -> bool {
        self.router_silent.is_some_and(|silent| silent < BACK_AFTER)
    }

    /// In words; `None` = nothing is wrong.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let parts = match (self.engine_silent, self.router_silent) {
            (None, None) => return None,
            (Some(_), Some(_)) => "engine and router do not answer",
            (Some(_), None) => "its engine does not answer",
            (None, Some(_)) => "its router does not answer",
        };
        let left = if self.is_out() {
            ", gone on without"
        } else {
            ""
        };
        Some(format!("host {}: unreachable ({parts}{left})", self.name))
    }
}

/// Why the routers' answers are not enough to decide on; `None` = they are.
#[must_use]
pub fn unheard(hosts: &[HostView], going_back: bool) -> Option<String> {
    let missing = hosts.iter().find(|host| {
        if going_back {
            host.is_awaited_back()
        } else {
            host.router_silent.is_some() && !host.is_out()
        }
    });
    if let Some(host) = missing {
        return host.trouble();
    }
    let left = hosts.iter().filter(|host| !host.is_out()).count();
    (!going_back && !is_most(left, hosts.len())).then(|| {
        format!(
            "only {left} of {} hosts can be reached: nothing goes further",
            hosts.len()
        )
    })
}

fn is_most(some: usize, all: usize) -> bool {
    all == 0 || some * 2 > all
}

/// An instance's id among several hosts.
#[must_use]
pub fn at_host(id: &str, host: &str) -> String {
    format!("{id}@{host}")
}

/// An instance's own name and its host; no host = the only one.
#[must_use]
pub fn host_of(id: &str) -> (&str, Option<&str>) {
    id.rsplit_once('@')
        .map_or((id, None), |(own, host)| (own, Some(host)))
}

/// How many of a service's `replicas` belong on the host at `index`: evenly, and one at least, because each router
/// serves what is on its own host.
#[must_use]
pub fn replicas_at(replicas: u32, index: usize, hosts: usize) -> u32 {
    let hosts = u32::try_from(hosts).unwrap_or(u32::MAX).max(1);
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    let more = u32::from(index < replicas % hosts);
    (replicas / hosts + more).max(1)
}

/// `count` of `all`, where there are `own` of them: never less than its share.
#[must_use]
pub fn share_of(count: u32, all: u32, own: u32) -> u32 {
    let share = (u64::from(own) * u64::from(count)).div_ceil(u64::from(all.max(1)));
    u32::try_from(share).unwrap_or(own).min(own)
}

/// How many instances each host has when a service has `count` of its `replicas`: one at least, everywhere.
#[must_use]
pub fn wanted_at(count: u32, replicas: u32, index: usize, hosts: usize) -> u32 {
    let own = replicas_at(replicas, index, hosts);
    share_of(count, replicas, own).max(1)
}

/// What is there of a version, against what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Hosts that have every container they need, running or not: they take part.
    pub taking_part: Vec<String>,
    /// Whether every host that can be reached has all of them running, and these are the greater half.
    pub all_run: bool,
    /// Whether every host that can be reached has all of them, running or not.
    pub all_exist: bool,
    /// Whether those that take part have all of them running, and are the greater half.
    pub part_runs: bool,
    /// How many instances those that take part need.
    pub wanted: u32,
}

/// Compares. `count` of `replicas` are wanted. On the way forward the greater half of the hosts must be there; a
/// rollback takes whatever is left.
#[must_use]
pub fn standing(
    instances: &[InstanceView],
    hosts: &[HostView],
    count: u32,
    replicas: u32,
    going_back: bool,
) -> Standing {
    let mut found = Standing {
        taking_part: Vec::new(),
        all_run: true,
        all_exist: true,
        part_runs: true,
        wanted: 0,
    };
    let mut left = 0;
    for (index, host) in hosts.iter().enumerate() {
        let wanted = wanted_at(count, replicas, index, hosts.len());
        let needs = usize::try_from(wanted).unwrap_or(usize::MAX);
        let own = || {
            instances
                .iter()
                .filter(|one| host_of(&one.id).1 == Some(&host.name))
        };
        let runs = own().filter(|one| one.address.is_some()).count() >= needs;
        let exists = own().count() >= needs;
        if !host.is_out() {
            left += 1;
            found.all_run &= runs;
            found.all_exist &= exists;
            if exists {
                found.taking_part.push(host.name.clone());
                found.part_runs &= runs;
                found.wanted = found.wanted.saturating_add(wanted);
            }
        }
    }
    let is_enough = |some: usize| {
        if going_back {
            some > 0
        } else {
            is_most(some, hosts.len())
        }
    };
    let most = is_enough(left);
    found.all_run &= most;
    found.all_exist &= most;
    found.part_runs &= is_enough(found.taking_part.len());
    found
}

/// Whether nothing of a version is left but on hosts that say nothing: that is removed when they are back.
pub(super) fn is_gone(instances: &[InstanceView], hosts: &[HostView]) -> bool {
    let silent = |one: &InstanceView| {
        let host = host_of(&one.id).1;
        hosts
            .iter()
            .any(|known| Some(known.name.as_str()) == host && known.is_silent())
    };
    instances.iter().all(silent)
}

/// The table of one host's router, out of the whole one. What the host has is in `whole`; of a version that is not
/// seen there, what its router knows (`current`) goes on. A host without the new version gives stable everything.
/// `None` = there is nothing that could carry traffic there.
#[must_use]
pub fn table_of(
    host: &str,
    whole: &TrafficTable,
    current: Option<&TrafficTable>,
) -> Option<TrafficTable> {
    let own = |share: &Share| -> Vec<Instance> {
        let on_host = |one: &&Instance| host_of(&one.id).1 == Some(host);
        share.instances.iter().filter(on_host).cloned().collect()
    };
    let known = |version: &str| -> Vec<Instance> {
        let shares = current.into_iter().flat_map(|table| &table.versions);
        let share = shares.into_iter().find(|share| share.version == version);
        share
            .map(|share| share.instances.clone())
            .unwrap_or_default()
    };
    let mut versions: Vec<Share> = Vec::new();
    for share in &whole.versions {
        let mut instances = own(share);
        // The new version's place is where the whole table says: a host that takes no part gets none of it.
        if instances.is_empty() && (share.version != whole.canary || whole.canary.is_empty()) {
            instances = known(&share.version);
        }
        if !instances.is_empty() {
            versions.push(Share {
                instances,
                ..share.clone()
            });
        }
    }
    let sum: u32 = versions.iter().map(|share| share.weight_bp).sum();
    if sum < FULL_BP {
        // What is missing has no instance here; the last one listed is the one that was there before.
        let rest = versions
            .iter_mut()
            .rev()
            .find(|share| share.version != whole.canary)?;
        rest.weight_bp += FULL_BP - sum;
    }
    let mut table = whole.clone();
    table.versions = versions;
    if table.weight_of(&whole.canary) == 0 {
        table.lease = None;
    }
    if !table
        .versions
        .iter()
        .any(|share| share.version == whole.canary)
    {
        table.canary = String::new();
        table.lease = None;
    }
    Some(table)
}

/// What routers say together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Agreed {
    /// The newest fence that one of them has.
    pub fence: Fence,
    /// The table that most of them have, with everybody's instances.
    pub table: Option<TrafficTable>,
    /// Who answers and has another one: not behind by design (a host without the new version), but by accident.
    pub apart: Vec<String>,
}

/// Puts the answers of routers together, by their hosts' names.
#[must_use]
pub fn agreed(answers: &BTreeMap<String, (Fence, Option<TrafficTable>)>) -> Agreed {
    let fence = answers
        .values()
        .map(|(fence, _)| *fence)
        .max()
        .unwrap_or_default();
    let weights = |table: &TrafficTable| -> BTreeMap<String, u32> {
        let carrying = table.versions.iter().filter(|share| share.weight_bp > 0);
        carrying
            .map(|share| (share.version.clone(), share.weight_bp))
            .collect()
    };
    let newest = || {
        let with = answers.values().filter(|(own, _)| *own == fence);
        with.filter_map(|(_, table)| table.as_ref())
    };
    let same = |table: &TrafficTable| {
        newest()
            .filter(|other| weights(other) == weights(table))
            .count()
    };
    let mut chosen: Option<&TrafficTable> = None;
    for table in newest() {
        if chosen.is_none_or(|best| same(table) > same(best)) {
            chosen = Some(table);
        }
    }
    let Some(chosen) = chosen else {
        return Agreed {
            fence,
            ..Agreed::default()
        };
    };
    let shared = weights(chosen);
    let apart = answers.iter().filter(|(_, (own, table))| {
        let Some(table) = table else { return true };
        let has = |version: &String| table.versions.iter().any(|share| share.version == *version);
        *own != fence || (shared.keys().all(has) && weights(table) != shared)
    });
    let apart = apart.map(|(name, _)| name.clone()).collect();
    let mut table = chosen.clone();
    for (_, other) in answers.values() {
        for share in other.iter().flat_map(|other| &other.versions) {
            match table
                .versions
                .iter_mut()
                .find(|one| one.version == share.version)
            {
                Some(one) => one.instances.extend(share.instances.iter().cloned()),
                None => table.versions.push(Share {
                    weight_bp: 0,
                    ..share.clone()
                }),
            }
        }
    }
    for share in &mut table.versions {
        share.instances.sort();
        share.instances.dedup();
    }
    Agreed {
        fence,
        table: Some(table),
        apart,
    }
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;
