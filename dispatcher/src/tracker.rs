//! Which cache daemon holds which layer: told by agents over their streams, gone with them, in no
//! database. A wrong entry costs a question; a missing one, a stage's time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use slipway_core::cache::capability::{self, Capability};
use slipway_core::digest::Digest;
use slipway_core::id::AgentId;
use slipway_core::time::Timestamp;
use slipway_identity::Authority;
use slipway_proto::v1;

/// Layers of one agent's daemon: what its list holds at most.
const PER_AGENT: usize = 20_000;
/// Layers that are known at all (some 10 MB); a new one beyond is not.
const LAYERS: usize = 100_000;
/// Agents of one layer that are known; more help nobody.
const PER_LAYER: usize = 128;
/// Holders that an assignment names.
const SOURCES: usize = 4;
/// Letters of an address or id.
const TEXT_MAX: usize = 200;

#[derive(Default)]
struct State {
    daemons: BTreeMap<AgentId, v1::CacheDaemon>,
    layers: BTreeMap<Digest, BTreeMap<AgentId, Digest>>,
    by_agent: BTreeMap<AgentId, BTreeSet<Digest>>,
    /// What agents left in a daemon that answers nobody, while their streams last.
    alone: BTreeMap<AgentId, BTreeSet<Digest>>,
}

/// The tracker. Cheap to clone; clones share.
#[derive(Clone, Default)]
pub struct Tracker(Arc<Mutex<State>>);

impl Tracker {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An agent's daemon holds more, or less, than it did.
    pub fn heard(&self, agent: &AgentId, holds: v1::Holds) {
        self.with(|state| {
            let sound = |d: &v1::CacheDaemon| {
                !d.id.is_empty() && d.id.len() <= TEXT_MAX && d.address.len() <= TEXT_MAX
            };
            match holds.daemon.filter(sound) {
                Some(daemon) => {
                    state.daemons.insert(agent.clone(), daemon);
                }
                None => state.forget(agent),
            }
            for layer in holds.gone.iter().filter_map(|layer| layer.parse().ok()) {
                state.lose(agent, &layer);
            }
            for pack in holds.added {
                if let (Ok(layer), Ok(pack)) = (pack.layer.parse(), pack.pack.parse()) {
                    state.add(agent, layer, pack);
                }
            }
        });
    }

    /// A result says that the agent's daemon has this pack.
    pub fn made(&self, agent: &AgentId, result: &v1::Result) {
        let layer = result.output_layer.as_deref().unwrap_or_default();
        match (layer.parse(), result.output_pack.parse()) {
            (Ok(layer), Ok(pack)) => self.with(|state| state.add(agent, layer, pack)),
            (Ok(layer), Err(_)) => self.with(|state| state.add_alone(agent, layer)),
            (Err(_), _) => {}
        }
    }

    /// Whether a connected agent is known to have this layer in its daemon.
    #[must_use]
    pub fn is_held(&self, layer: &Digest) -> bool {
        self.with(|state| {
            let alone = || state.alone.values().any(|held| held.contains(layer));
            state.layers.contains_key(layer) || alone()
        })
    }

    /// The agent's stream ended.
    pub fn gone(&self, agent: &AgentId) {
        self.with(|state| state.forget(agent));
    }

    /// Who but this agent holds each of these, and what lets its daemon read there; nothing where its
    /// daemon asks nobody.
    #[must_use]
    pub fn sources(
        &self,
        agent: &AgentId,
        layers: &[Digest],
        (project, attempt): (&str, &str),
        (authority, now): (&Authority, Timestamp),
    ) -> (Vec<v1::LayerSource>, Option<v1::Capability>) {
        let nothing = (Vec::new(), None);
        let Some((holder, sources)) = self.with(|state| {
            let own = state.daemons.get(agent)?.id.clone();
            let found = layers.iter().filter_map(|layer| state.source(agent, layer));
            Some((own, found.collect::<Vec<_>>()))
        }) else {
            return nothing;
        };
        if sources.is_empty() {
            return nothing;
        }
        let readable = sources
            .iter()
            .filter_map(|source| source.layer.parse().ok());
        let statement = Capability {
            holder,
            project: project.to_owned(),
            attempt: attempt.to_owned(),
            layers: readable.take(capability::LAYERS_MAX).collect(),
            expires: now.after(capability::LIFE),
        };
        let statement = statement.encode();
        match authority.sign(&statement) {
            Ok(signature) => {
                let given = v1::Capability {
                    statement,
                    signature,
                };
                (sources, Some(given))
            }
            Err(error) => {
                tracing::error!(%error, "no capability can be signed");
                nothing
            }
        }
    }
}

impl State {
    fn add(&mut self, agent: &AgentId, layer: Digest, pack: Digest) {
        // Whose daemon answers nobody has nothing for anybody.
        if !self.daemons.contains_key(agent)
            || (self.layers.len() >= LAYERS && !self.layers.contains_key(&layer))
        {
            return;
        }
        let own = self.by_agent.entry(agent.clone()).or_default();
        let holders = self.layers.entry(layer).or_default();
        if own.len() < PER_AGENT && holders.len() < PER_LAYER {
            own.insert(layer);
            holders.insert(agent.clone(), pack);
        } else if holders.is_empty() {
            self.layers.remove(&layer);
        }
    }

    fn add_alone(&mut self, agent: &AgentId, layer: Digest) {
        if self.daemons.contains_key(agent) {
            return;
        }
        let held = self.alone.entry(agent.clone()).or_default();
        if held.len() < PER_AGENT {
            held.insert(layer);
        }
    }

    fn lose(&mut self, agent: &AgentId, layer: &Digest) {
        if let Some(own) = self.by_agent.get_mut(agent) {
            own.remove(layer);
        }
        if let Some(holders) = self.layers.get_mut(layer) {
            holders.remove(agent);
            if holders.is_empty() {
                self.layers.remove(layer);
            }
        }
    }

    fn forget(&mut self, agent: &AgentId) {
        self.daemons.remove(agent);
        self.alone.remove(agent);
        for layer in self.by_agent.remove(agent).unwrap_or_default() {
            self.lose(agent, &layer);
        }
    }

    /// Agents that share one daemon hold the same; each daemon is named once.
    fn source(&self, but: &AgentId, layer: &Digest) -> Option<v1::LayerSource> {
        let own = self.daemons.get(but).map(|daemon| daemon.id.as_str());
        let mut named = BTreeSet::new();
        let mut holders: Vec<v1::CacheHolder> = Vec::new();
        for (agent, pack) in self.layers.get(layer)? {
            if let Some(daemon) = self.daemons.get(agent)
                && Some(daemon.id.as_str()) != own
                && named.insert(daemon.id.as_str())
            {
                holders.push(v1::CacheHolder {
                    daemon: Some(daemon.clone()),
                    pack: pack.to_string(),
                });
            }
        }
        if holders.is_empty() {
            return None;
        }
        // Not everybody begins at the same one.
        let turn = but.as_str().bytes().map(usize::from).sum::<usize>() % holders.len();
        holders.rotate_left(turn);
        holders.truncate(SOURCES);
        Some(v1::LayerSource {
            layer: layer.to_string(),
            holders,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(number: u8) -> AgentId {
        let id = format!("01ARZ3NDEKTSV4RRFFQ69G5FA{}", char::from(b'A' + number));
        id.parse().unwrap()
    }

    fn holds(number: u8, layers: &[&[u8]]) -> v1::Holds {
        let packs = layers.iter().map(|layer| v1::HeldPack {
            layer: Digest::of(layer).to_string(),
            pack: Digest::of(b"pack").to_string(),
        });
        v1::Holds {
            daemon: Some(v1::CacheDaemon {
                id: format!("daemon{number}"),
                address: format!("127.0.0.1:{number}"),
            }),
            added: packs.collect(),
            gone: Vec::new(),
        }
    }

    fn asked(tracker: &Tracker, number: u8, layer: &[u8]) -> Vec<String> {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let authority = Authority::create(now).unwrap();
        let layers = [Digest::of(layer)];
        let of = ("project", "stage-1");
        let (sources, given) = tracker.sources(&agent(number), &layers, of, (&authority, now));
        if let Some(given) = &given {
            let read = Capability::decode(&given.statement).unwrap();
            assert_eq!(read.holder, format!("daemon{number}"));
            assert!(read.layers == layers && read.expires > now);
        }
        assert_eq!(given.is_some(), !sources.is_empty());
        let holders = sources.into_iter().flat_map(|source| source.holders);
        holders.map(|holder| holder.daemon.unwrap().id).collect()
    }

    #[test]
    fn an_agent_is_told_who_else_holds_a_layer_until_that_one_is_gone() {
        let tracker = Tracker::default();
        tracker.heard(&agent(0), holds(0, &[b"x", b"y"]));
        tracker.heard(&agent(1), holds(1, &[]));
        assert_eq!(asked(&tracker, 1, b"x"), ["daemon0"]);
        assert!(asked(&tracker, 0, b"x").is_empty(), "it has it itself");
        assert!(asked(&tracker, 2, b"x").is_empty(), "it has no daemon");
        let mut less = holds(0, &[]);
        less.gone = vec![Digest::of(b"x").to_string()];
        tracker.heard(&agent(0), less);
        assert!(asked(&tracker, 1, b"x").is_empty());
        assert_eq!(asked(&tracker, 1, b"y"), ["daemon0"]);
        tracker.gone(&agent(0));
        assert!(asked(&tracker, 1, b"y").is_empty());
        assert!(tracker.with(|state| state.layers.is_empty()));
    }

    #[test]
    fn agents_beside_one_daemon_are_one_source_and_none_for_each_other() {
        let tracker = Tracker::default();
        tracker.heard(&agent(0), holds(0, &[b"x"]));
        tracker.heard(&agent(1), holds(0, &[b"x"]));
        tracker.heard(&agent(2), holds(2, &[]));
        assert_eq!(asked(&tracker, 2, b"x"), ["daemon0"]);
        let of = Digest::of(b"x");
        assert!(tracker.with(|state| state.source(&agent(1), &of).is_none()));
    }

    #[test]
    fn a_layer_in_a_daemon_that_answers_nobody_is_held_while_its_agent_is_there() {
        let tracker = Tracker::default();
        let layer = Digest::of(b"x");
        let made = v1::Result {
            output_layer: Some(layer.to_string()),
            ..v1::Result::default()
        };
        assert!(!tracker.is_held(&layer));
        tracker.made(&agent(0), &made);
        assert!(tracker.is_held(&layer));
        assert!(asked(&tracker, 1, b"x").is_empty(), "nobody is sent there");
        tracker.gone(&agent(0));
        assert!(!tracker.is_held(&layer));
        tracker.heard(&agent(1), holds(1, &[b"x"]));
        assert!(tracker.is_held(&layer));
        tracker.gone(&agent(1));
        assert!(!tracker.is_held(&layer));
    }

    #[test]
    fn a_result_counts_at_once_and_a_list_has_an_end() {
        let tracker = Tracker::default();
        let made = |layer: &[u8]| v1::Result {
            output_layer: Some(Digest::of(layer).to_string()),
            output_pack: Digest::of(b"p").to_string(),
            ..v1::Result::default()
        };
        tracker.made(&agent(0), &made(b"x"));
        assert!(tracker.with(|state| state.layers.is_empty()), "no daemon");
        tracker.heard(&agent(0), holds(0, &[]));
        tracker.heard(&agent(1), holds(1, &[]));
        tracker.made(&agent(0), &made(b"x"));
        assert_eq!(asked(&tracker, 1, b"x"), ["daemon0"]);
        for number in 0..PER_AGENT + 5 {
            tracker.made(&agent(0), &made(&number.to_le_bytes()));
        }
        assert_eq!(tracker.with(|state| state.layers.len()), PER_AGENT);
    }
}
