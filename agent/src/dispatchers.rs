//! The dispatchers of this installation, and the one that this agent talks to now.
//!
//! Owns which address is next: after a failure the next of the list, after a redirect the one named.
//! Does not own when to try again (`link`).

use std::sync::{Mutex, PoisonError};

use slipway_core::access::PeerRole;
use slipway_identity::Own;
use tonic::transport::Channel;

/// Two connections to one dispatcher: a full window of output never delays a renewal.
#[derive(Clone)]
struct Pair {
    address: String,
    control: Channel,
    output: Channel,
}

struct Now {
    index: usize,
    pair: Pair,
}

/// The dispatchers.
pub(crate) struct Dispatchers {
    own: Own,
    addresses: Vec<String>,
    now: Mutex<Now>,
}

impl Dispatchers {
    /// With the first of a list.
    ///
    /// # Errors
    /// When one of the addresses is none.
    pub(crate) fn new(own: Own, addresses: Vec<String>) -> anyhow::Result<Self> {
        let mut pairs = addresses
            .iter()
            .map(|address| pair(&own, address))
            .collect::<anyhow::Result<Vec<Pair>>>()?;
        anyhow::ensure!(!pairs.is_empty(), "`dispatcher` names no address");
        let now = Mutex::new(Now {
            index: 0,
            pair: pairs.swap_remove(0),
        });
        Ok(Self {
            own,
            addresses,
            now,
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut Now) -> T) -> T {
        look(&mut self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// For the control stream.
    pub(crate) fn control(&self) -> Channel {
        self.with(|now| now.pair.control.clone())
    }

    /// For output and artifacts.
    pub(crate) fn output(&self) -> Channel {
        self.with(|now| now.pair.output.clone())
    }

    /// The present one does not answer.
    pub(crate) fn next(&self) {
        if self.addresses.len() < 2 {
            return;
        }
        self.with(|now| {
            now.index = (now.index + 1) % self.addresses.len();
            if let Some(address) = self.addresses.get(now.index)
                && let Ok(next) = pair(&self.own, address)
            {
                now.pair = next;
            }
        });
    }

    /// The present one says that another leads.
    pub(crate) fn go_to(&self, address: &str) {
        self.with(|now| {
            if now.pair.address == address {
                return;
            }
            match pair(&self.own, address) {
                Ok(next) => now.pair = next,
                Err(error) => tracing::warn!("a redirect leads nowhere: {error:#}"),
            }
        });
    }
}

fn pair(own: &Own, address: &str) -> anyhow::Result<Pair> {
    Ok(Pair {
        address: address.to_owned(),
        control: own.channel(address, PeerRole::Dispatcher)?,
        output: own.channel(address, PeerRole::Dispatcher)?,
    })
}
