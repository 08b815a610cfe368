//! How many slots each pool needs: what is busy, what will be taken before a new agent could boot, and
//! what finds no such slot.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use super::snapshot::{MachineState, Pool, Ready, Snapshot};
use crate::time::Timestamp;

/// A stage takes at least this, so that no slot takes endlessly many.
const SHORTEST: Duration = Duration::from_millis(100);

/// What a pool needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Need {
    /// Slots of its agents that hold something.
    pub(super) busy: u32,
    /// Slots of its agents, free or booting, that a waiting stage will take.
    pub(super) taken: u32,
    /// Waiting stages that need a further agent.
    pub(super) waiting: u32,
    /// Waiting stages that a present or booting slot takes before a new agent could boot.
    pub(super) absorbed: u32,
    /// Waiting stages of its kind for which there is no room in any pool.
    pub(super) unmet: u32,
}

impl Need {
    fn slots(self) -> u32 {
        self.busy
            .saturating_add(self.taken)
            .saturating_add(self.waiting)
    }

    /// Agents for it, before `min` and `max`.
    pub(super) fn agents(self, pool: &Pool) -> u32 {
        let slots = self.slots().saturating_add(pool.settings.reserve);
        slots.div_ceil(pool.settings.slots.max(1))
    }
}

/// One slot that is there or will be.
struct Slot<'a> {
    /// From now.
    free_in: Duration,
    pool: Option<usize>,
    labels: Option<&'a BTreeMap<String, String>>,
    busy: bool,
    taken: bool,
}

/// The need of every pool, in their order.
pub(super) fn needs(snapshot: &Snapshot, now: Timestamp) -> Vec<Need> {
    let mut slots = slots(snapshot, now);
    let mut needs: Vec<Need> = snapshot.pools.iter().map(busy).collect();
    for ready in &snapshot.ready {
        let fitting: Vec<usize> = (0..snapshot.pools.len())
            .filter(|place| {
                let pool = &snapshot.pools[*place];
                !pool.removed && pool.settings.fits(&pool.name, &ready.labels)
            })
            .collect();
        let absorbed = absorb(snapshot, ready, &fitting, &mut slots, &mut needs);
        place(snapshot, ready.count - absorbed, &fitting, &mut needs, now);
    }
    for slot in slots.iter().filter(|slot| slot.taken && !slot.busy) {
        if let Some(place) = slot.pool {
            needs[place].taken += 1;
        }
    }
    needs
}

fn busy(pool: &Pool) -> Need {
    let held = pool
        .machines
        .iter()
        .filter(|m| m.state == MachineState::Ready && m.takes_work);
    let held: usize = held.map(|m| m.busy.len()).sum();
    Need {
        busy: u32::try_from(held).unwrap_or(u32::MAX),
        ..Need::default()
    }
}

fn slots(snapshot: &Snapshot, now: Timestamp) -> Vec<Slot<'_>> {
    let mut slots = Vec::new();
    let mut add = |pool, labels, count: u32, held: &[Duration], later: Duration| {
        for number in 0..count as usize {
            slots.push(Slot {
                free_in: held.get(number).copied().unwrap_or(later),
                pool,
                labels,
                busy: number < held.len(),
                taken: false,
            });
        }
    };
    for (place, pool) in snapshot.pools.iter().enumerate() {
        for machine in &pool.machines {
            if !machine.is_capacity(&pool.settings, now) {
                continue;
            }
            let (count, later) = match machine.state {
                // It counts from its order on, and is there when the others were.
                MachineState::Starting => {
                    let age = now.since(machine.created);
                    let boot = pool.boot.unwrap_or(Duration::ZERO);
                    (pool.settings.slots, boot.saturating_sub(age))
                }
                _ => (machine.slots, Duration::ZERO),
            };
            add(Some(place), None, count, &machine.busy, later);
        }
    }
    for agent in &snapshot.elsewhere {
        add(
            None,
            Some(&agent.labels),
            agent.slots,
            &agent.busy,
            Duration::ZERO,
        );
    }
    slots
}

/// How many of these stages a slot takes before a new agent could boot. Each goes to the slot that is
/// free first.
fn absorb(
    snapshot: &Snapshot,
    ready: &Ready,
    fitting: &[usize],
    slots: &mut [Slot<'_>],
    needs: &mut [Need],
) -> u32 {
    // Where nothing is known of it a new agent is thought to be there at once.
    let boots = fitting
        .iter()
        .map(|place| snapshot.pools[*place].boot.unwrap_or(Duration::ZERO));
    let horizon = boots.min().unwrap_or(Duration::MAX);
    let mut free: BinaryHeap<Reverse<(Duration, usize)>> = slots
        .iter()
        .enumerate()
        .filter(|(_, slot)| match (slot.pool, slot.labels) {
            (Some(place), _) => fitting.contains(&place),
            (None, Some(labels)) => has(labels, &ready.labels),
            (None, None) => false,
        })
        .map(|(number, slot)| Reverse((slot.free_in, number)))
        .collect();
    let mut absorbed = 0;
    while absorbed < ready.count
        && let Some(Reverse((free_in, number))) = free.pop()
    {
        if free_in > horizon {
            break;
        }
        let slot = &mut slots[number];
        slot.taken = true;
        slot.free_in = free_in.saturating_add(ready.expected.max(SHORTEST));
        free.push(Reverse((slot.free_in, number)));
        absorbed += 1;
        if let Some(place) = slot.pool {
            needs[place].absorbed += 1;
        }
    }
    absorbed
}

/// The rest needs further agents: of the first fitting pool with room, then of the next.
fn place(
    snapshot: &Snapshot,
    mut left: u32,
    fitting: &[usize],
    needs: &mut [Need],
    now: Timestamp,
) {
    for number in fitting {
        let pool = &snapshot.pools[*number];
        let all = pool.settings.max.saturating_mul(pool.settings.slots);
        let need = &mut needs[*number];
        let mut room = all.saturating_sub(need.slots().saturating_add(pool.settings.reserve));
        // What is spent for today goes to the next pool, if there is one.
        if pool.is_capped(now) && fitting.len() > 1 {
            room = 0;
        }
        let here = left.min(room);
        need.waiting += here;
        left -= here;
    }
    if let Some(first) = fitting.first() {
        needs[*first].unmet += left;
    }
}

fn has(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(name, value)| match name.strip_prefix('!') {
            Some(absent) => !labels.contains_key(absent),
            None => labels
                .get(name)
                .is_some_and(|own| own == value || value == "*"),
        })
}
