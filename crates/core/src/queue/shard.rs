//! Which agents are home to which stages: weighted rendezvous hashing, so that equal stages come back
//! to where their content is, and a joining or leaving agent moves only its own share of the keys.

use super::snapshot::Waiting;
use crate::id::AgentId;

/// How many agents are home to a key.
pub(super) const HOMES: usize = 2;

/// hash(repository, stage name, first cache key).
pub(super) fn key(stage: &Waiting) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in [stage.repo.as_str(), &stage.name, &stage.cache_key] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut bytes = [0_u8; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}

/// An agent's part of the hash (FNV-1a: it must be cheap, and nobody chooses an agent's id).
pub(super) fn seed(agent: &AgentId) -> u64 {
    agent
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}

/// How much an agent is home to a key: `-slots / ln(h)`, `h` in (0, 1).
#[expect(clippy::cast_precision_loss, reason = "53 bits are taken")]
pub(super) fn score(key: u64, seed: u64, slots: u32) -> f64 {
    // The finalizer of splitmix64.
    let mut hash = key ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    // A hash of 0 would divide by infinity.
    let unit = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -f64::from(slots) / unit.ln()
}

/// The homes of a key, best first, among (name, seed, slots).
pub(super) fn homes<T: Copy + Ord>(
    key: u64,
    agents: impl Iterator<Item = (T, u64, u32)>,
) -> [Option<T>; HOMES] {
    let mut best: [Option<(f64, T)>; HOMES] = [None; HOMES];
    for (name, seed, slots) in agents {
        let mut next = Some((score(key, seed, slots), name));
        for place in &mut best {
            let Some((mine, name)) = next else { break };
            let better = place.is_none_or(|(known, other)| {
                mine.total_cmp(&known)
                    .then_with(|| other.cmp(&name))
                    .is_gt()
            });
            if better {
                next = place.replace((mine, name));
            }
        }
    }
    best.map(|place| place.map(|(_, name)| name))
}
