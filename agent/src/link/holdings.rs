//! What the cache daemon has for others, told over the stream: everything first, then what changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use slipway_proto::v1::agent_message::Message as Out;
use slipway_proto::v1::{AgentMessage, HeldPack, HoldingsResponse, Holds};
use tokio::sync::{mpsc, watch};

use super::said;

/// Layers of one message: some 70 KB, far below what a message may have.
const AT_ONCE: usize = 500;

/// What was told over one stream.
#[derive(Default)]
pub(super) struct Told {
    last: Option<Arc<HoldingsResponse>>,
    packs: BTreeMap<String, String>,
}

impl Told {
    /// Tells what changed since the last time, if anything did.
    pub(super) async fn tell(
        &mut self,
        holdings: &watch::Sender<Arc<HoldingsResponse>>,
        outgoing: &mpsc::Sender<AgentMessage>,
    ) -> anyhow::Result<()> {
        let now = Arc::clone(&holdings.borrow());
        if self
            .last
            .as_ref()
            .is_some_and(|last| Arc::ptr_eq(last, &now))
        {
            return Ok(());
        }
        for holds in self.changes(&now) {
            outgoing.send(said(Out::Holds(holds))).await?;
        }
        self.last = Some(now);
        Ok(())
    }

    fn changes(&mut self, now: &HoldingsResponse) -> Vec<Holds> {
        let packs = now.packs.iter().map(|p| (p.layer.clone(), p.pack.clone()));
        let packs: BTreeMap<String, String> = packs.collect();
        let gone: Vec<String> = self.packs.keys().cloned().collect();
        let gone = gone.into_iter().filter(|layer| !packs.contains_key(layer));
        let gone: Vec<String> = gone.collect();
        let added = packs.iter().filter(|(l, p)| self.packs.get(*l) != Some(p));
        let added: Vec<HeldPack> = added
            .map(|(layer, pack)| HeldPack {
                layer: layer.clone(),
                pack: pack.clone(),
            })
            .collect();
        let known = self.last.as_ref().map(|last| &last.daemon);
        let moved = known != Some(&now.daemon) && (known.is_some() || now.daemon.is_some());
        self.packs = packs;
        let mut all = Vec::new();
        let (mut gone, mut added) = (gone.chunks(AT_ONCE), added.chunks(AT_ONCE));
        loop {
            let (less, more) = (gone.next(), added.next());
            let first = all.is_empty() && moved;
            if less.is_none() && more.is_none() && !first {
                return all;
            }
            all.push(Holds {
                daemon: now.daemon.clone(),
                added: more.unwrap_or_default().to_vec(),
                gone: less.unwrap_or_default().to_vec(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use slipway_proto::v1::CacheDaemon;

    use super::*;

    fn holding(layers: std::ops::Range<usize>) -> HoldingsResponse {
        let packs = layers.map(|n| HeldPack {
            layer: format!("{n:04}"),
            pack: "p".to_owned(),
        });
        HoldingsResponse {
            daemon: Some(CacheDaemon::default()),
            packs: packs.collect(),
        }
    }

    #[tokio::test]
    async fn everything_is_told_once_and_then_what_changes() {
        let (outgoing, mut heard) = mpsc::channel(64);
        let holdings = watch::Sender::new(Arc::new(HoldingsResponse::default()));
        let mut told = Told::default();
        let mut next = async |now: Option<HoldingsResponse>| {
            if let Some(now) = now {
                holdings.send_replace(Arc::new(now));
            }
            told.tell(&holdings, &outgoing).await.unwrap();
            let mut counts = Vec::new();
            while let Ok(message) = heard.try_recv() {
                if let Some(Out::Holds(holds)) = message.message {
                    assert!(holds.daemon.is_some());
                    counts.push((holds.added.len(), holds.gone.len()));
                }
            }
            counts
        };
        assert_eq!(next(None).await, [], "a daemon that answers nobody");
        assert_eq!(next(Some(holding(0..0))).await, [(0, 0)]);
        assert_eq!(next(Some(holding(0..700))).await, [(500, 0), (200, 0)]);
        assert_eq!(next(None).await, []);
        assert_eq!(next(Some(holding(1..702))).await, [(2, 1)]);
    }
}
