//! What lets one cache daemon read from another: a statement of the dispatcher, about one daemon and
//! the layers of one attempt, for a few minutes.
//!
//! Owns the statement and its one encoding. Does not own how it is signed. Fields are length-prefixed:
//! no two statements have the same bytes.

use std::time::Duration;

use crate::digest::Digest;
use crate::time::Timestamp;

/// How long one is good.
pub const LIFE: Duration = Duration::from_secs(600);
/// Layers of one: a root and what lies over it.
pub const LAYERS_MAX: usize = 501;
/// Letters of a name in it.
const NAME_MAX: usize = 200;
/// Says what is signed, so that a signature of something else is none of this.
const CONTEXT: &[u8] = b"slipway cache capability v1";

/// The statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// The daemon that may read, by the id in its certificate.
    pub holder: String,
    /// The project whose content it is.
    pub project: String,
    /// The attempt that needs it.
    pub attempt: String,
    /// What may be read.
    pub layers: Vec<Digest>,
    /// Until when.
    pub expires: Timestamp,
}

/// Why somebody may not read. Callers hear of none of it: to them it is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is somebody else's.
    #[error("the capability is another daemon's")]
    Holder,
    /// It is over.
    #[error("the capability has expired")]
    Expired,
    /// It names other layers.
    #[error("the capability does not name this layer")]
    Layer,
}

impl Capability {
    /// The one encoding: what is signed and sent.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |bytes: &[u8]| {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            out.extend(length.to_le_bytes());
            out.extend(bytes);
        };
        put(CONTEXT);
        put(self.holder.as_bytes());
        put(self.project.as_bytes());
        put(self.attempt.as_bytes());
        put(&self.expires.as_millis().to_le_bytes());
        let layers: Vec<u8> = self.layers.iter().flat_map(|d| *d.as_bytes()).collect();
        put(&layers);
        out
    }

    /// Reads an encoding.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut take = || {
            let (length, after) = rest.split_at_checked(4)?;
            let length = u32::from_le_bytes(length.try_into().ok()?);
            let (field, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
            rest = after;
            Some(field)
        };
        if take()? != CONTEXT {
            return None;
        }
        let [holder, project, attempt] = [take()?, take()?, take()?].map(text);
        let expires = i64::from_le_bytes(take()?.try_into().ok()?);
        let layers = take()?;
        if !rest.is_empty() || layers.len() % 32 != 0 || layers.len() / 32 > LAYERS_MAX {
            return None;
        }
        let layers = layers.chunks_exact(32).filter_map(|d| d.try_into().ok());
        Some(Self {
            holder: holder?,
            project: project?,
            attempt: attempt?,
            layers: layers.map(Digest::from_bytes).collect(),
            expires: Timestamp::from_millis(expires),
        })
    }

    /// Whether this daemon may read this layer now.
    ///
    /// # Errors
    /// Why not.
    pub fn allows(&self, daemon: &str, layer: &Digest, now: Timestamp) -> Result<(), Refused> {
        if self.holder != daemon {
            return Err(Refused::Holder);
        }
        if self.expires <= now {
            return Err(Refused::Expired);
        }
        if !self.layers.contains(layer) {
            return Err(Refused::Layer);
        }
        Ok(())
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    (text.len() <= NAME_MAX).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Capability {
        Capability {
            holder: "daemon-b".to_owned(),
            project: "p".to_owned(),
            attempt: "s-1".to_owned(),
            layers: vec![Digest::of(b"a"), Digest::of(b"b")],
            expires: Timestamp::from_millis(1_000),
        }
    }

    #[test]
    fn it_is_good_for_its_holder_its_layers_and_its_time_alone() {
        let given = sample();
        let allows = |daemon: &str, layer: &[u8], now| {
            given.allows(daemon, &Digest::of(layer), Timestamp::from_millis(now))
        };
        assert_eq!(allows("daemon-b", b"a", 999), Ok(()));
        assert_eq!(allows("daemon-c", b"a", 999), Err(Refused::Holder));
        assert_eq!(allows("daemon-b", b"c", 999), Err(Refused::Layer));
        assert_eq!(allows("daemon-b", b"a", 1_000), Err(Refused::Expired));
    }

    #[test]
    fn hostile_h062_moving_a_boundary_makes_other_bytes() {
        let shifted = |holder: &str, project: &str| {
            let mut one = sample();
            one.holder = holder.to_owned();
            one.project = project.to_owned();
            one.encode()
        };
        assert_ne!(shifted("a", "bc"), shifted("ab", "c"));
    }

    proptest! {
        #[test]
        fn it_is_read_back_and_no_byte_of_it_can_change(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let given = sample();
            let mut bytes = given.encode();
            prop_assert_eq!(Capability::decode(&bytes), Some(given.clone()));
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_ne!(Capability::decode(&bytes), Some(given));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _whatever = Capability::decode(&bytes);
        }
    }
}
