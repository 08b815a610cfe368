//! Fetching a layer's pack: from whoever holds it, checked frame by frame, gone on with at the next
//! holder where the last one stopped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slipway_core::cache::breaker::Breaker;
use slipway_core::cache::pack::{HEADER_MAX, Header};
use slipway_core::digest::Digest;
use slipway_daemon::Clock;
use slipway_proto::v1::peer_answer::Answer;
use slipway_proto::v1::peer_request::Ask;
use slipway_proto::v1::{
    CacheDaemon, CacheHolder, Capability, LayerSource, PeerAnswer, PeerFrames, PeerHeader,
    PeerRequest,
};
use tokio::io::AsyncReadExt as _;

use super::lanes::Lanes;
use super::{Stream, hear, say};
use crate::Store;
use crate::blobs::{BlobError, PackIncoming};

/// Finding somebody who answers: then it is a miss.
const LOOKUP: Duration = Duration::from_secs(5);
/// Until the first byte of an answer.
const FIRST_BYTE: Duration = Duration::from_secs(1);
/// A body may take this long …
const BODY: Duration = Duration::from_secs(4);
/// … and so much longer for each megabyte.
const PER_MB: Duration = Duration::from_secs(1);
/// Bytes that are hashed and written at once: less loses speed in the hash, more lets the socket
/// overflow meanwhile.
const PIECE: usize = 256 * 1024;
/// Holders of one layer that are asked.
const HOLDERS: usize = 4;
/// Shortest wait for a busy one, whatever it says.
const BUSY_LEAST: Duration = Duration::from_millis(50);
/// Peers that are remembered.
const REMEMBERED: usize = 1_000;

/// Why one peer was of no use.
enum Failed {
    /// It has nothing for us.
    NotThere,
    /// It has no time now.
    Busy(Duration),
    /// It did not answer, or not in time.
    Away,
    /// It sent something else.
    Lied,
    /// It is our own disk.
    Here(BlobError),
}

/// How long busy peers were waited for: all of it together no longer than finding one may take, or a peer
/// that never has time would be waited for for ever.
#[derive(Default)]
struct Patience(Duration);

impl Patience {
    /// How long to wait now; `None` = no longer.
    fn more(&mut self, asked: Duration) -> Option<Duration> {
        let wait = asked.max(BUSY_LEAST);
        self.0 = self.0.saturating_add(wait);
        (self.0 <= LOOKUP).then_some(wait)
    }
}

/// The fetching end.
pub struct Peers {
    store: Arc<Store>,
    lanes: Lanes,
    clock: Clock,
    /// How others reach this daemon.
    pub me: CacheDaemon,
    breakers: Mutex<BTreeMap<String, Breaker>>,
    /// One fetch per layer; the others wait for it.
    flights: Mutex<BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

/// A pack that is partly here.
struct Part<'s> {
    pack: Digest,
    header: Header,
    incoming: PackIncoming<'s>,
    /// The next frame, and its place in the file.
    frame: usize,
    at: u64,
}

impl Peers {
    pub(super) fn new(store: Arc<Store>, lanes: Lanes, clock: Clock, me: CacheDaemon) -> Self {
        Self {
            store,
            lanes,
            clock,
            me,
            breakers: Mutex::default(),
            flights: Mutex::default(),
        }
    }

    fn breakers(&self) -> MutexGuard<'_, BTreeMap<String, Breaker>> {
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flights(&self) -> MutexGuard<'_, BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches what is missing of these layers. What cannot be had stays missing. Answers the bytes
    /// that came.
    pub async fn fetch(&self, sources: &[LayerSource], given: Option<&Capability>) -> u64 {
        let mut bytes = 0;
        for source in sources {
            if let Ok(layer) = source.layer.parse() {
                bytes += self.one(&layer, &source.holders, given).await;
            }
        }
        bytes
    }

    async fn one(
        &self,
        layer: &Digest,
        holders: &[CacheHolder],
        given: Option<&Capability>,
    ) -> u64 {
        let flight = Arc::clone(self.flights().entry(*layer).or_default());
        let alone = flight.lock().await;
        let mut bytes = 0;
        if self.blocking_lacks(layer).await {
            bytes = self.fetch_pack(layer, holders, given).await;
            self.unpack(layer).await;
        }
        drop(alone);
        self.flights()
            .retain(|_, flight| Arc::strong_count(flight) > 1);
        bytes
    }

    async fn blocking_lacks(&self, layer: &Digest) -> bool {
        let (store, layer) = (Arc::clone(&self.store), *layer);
        let looking = tokio::task::spawn_blocking(move || store.lacks(&layer));
        looking.await.unwrap_or(true)
    }

    /// Fetches one pack, checked and on the disk, and does not take it apart. Answers the bytes that
    /// came.
    pub async fn fetch_pack(
        &self,
        layer: &Digest,
        holders: &[CacheHolder],
        given: Option<&Capability>,
    ) -> u64 {
        let mut part = None;
        let mut bytes = 0;
        let mut patience = Patience::default();
        let begun = self.clock.monotonic();
        let mut again = holders.iter().take(HOLDERS).collect::<Vec<_>>();
        while let Some(holder) = (!again.is_empty()).then(|| again.remove(0)) {
            let spent = self.clock.monotonic().saturating_sub(begun);
            if part.is_none() && spent >= LOOKUP {
                break;
            }
            let Some(daemon) = holder.daemon.as_ref() else {
                continue;
            };
            if daemon.id == self.me.id || !self.may_ask(&daemon.id) {
                continue;
            }
            let left = LOOKUP.saturating_sub(spent);
            let fetched = self
                .from(layer, holder, daemon, given, &mut part, left, &mut bytes)
                .await;
            match fetched {
                Ok(()) => {
                    self.note(&daemon.id, |breaker, _| breaker.succeeded());
                    let kept = part.take().map(|part| part.incoming.finish(false));
                    match kept {
                        Some(Ok(size)) => {
                            self.store.keep_pack(layer, size);
                            return bytes;
                        }
                        Some(Err(error)) => {
                            tracing::warn!(%error, %layer, "a fetched layer cannot be kept");
                        }
                        None => {}
                    }
                    break;
                }
                Err(Failed::NotThere) => {}
                Err(Failed::Busy(wait)) => {
                    if let Some(wait) = patience.more(wait) {
                        tokio::time::sleep(wait).await;
                        again.push(holder);
                    }
                }
                Err(Failed::Away) => self.note(&daemon.id, Breaker::failed),
                Err(Failed::Lied) => {
                    tracing::error!(daemon = daemon.id, %layer, "a peer sent wrong bytes");
                    part = None;
                    self.note(&daemon.id, Breaker::lied);
                }
                Err(Failed::Here(error)) => {
                    tracing::warn!(%error, %layer, "a layer cannot be kept");
                    break;
                }
            }
        }
        self.store.counters().faults.inc();
        bytes
    }

    fn may_ask(&self, id: &str) -> bool {
        let now = self.clock.ticks();
        let breakers = self.breakers();
        breakers
            .get(id)
            .is_none_or(|breaker| breaker.lets_through(now))
    }

    fn note(&self, id: &str, what: impl Fn(&mut Breaker, slipway_core::time::Timestamp)) {
        let now = self.clock.ticks();
        let mut breakers = self.breakers();
        if breakers.len() >= REMEMBERED {
            breakers.clear();
        }
        what(breakers.entry(id.to_owned()).or_default(), now);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one holder's turn, and what the last one left"
    )]
    async fn from<'s>(
        &'s self,
        layer: &Digest,
        holder: &CacheHolder,
        daemon: &CacheDaemon,
        given: Option<&Capability>,
        part: &mut Option<Part<'s>>,
        left: Duration,
        bytes: &mut u64,
    ) -> Result<(), Failed> {
        let pack: Digest = holder.pack.parse().map_err(|_| Failed::NotThere)?;
        let ask = |ask: Ask| PeerRequest {
            capability: given.cloned(),
            ask: Some(ask),
        };
        if part.as_ref().is_none_or(|part| part.pack != pack) {
            let header = ask(Ask::Header(PeerHeader {
                layer: layer.as_bytes().to_vec(),
            }));
            let asking = tokio::time::timeout(left, self.header(daemon, &header, &pack, layer));
            let (header, encoded) = asking.await.map_err(|_| Failed::Away)??;
            let disk = &self.store.disk;
            let incoming = PackIncoming::with_header(disk, layer, &header, &encoded);
            let incoming = incoming.map_err(Failed::Here)?;
            let at = PackIncoming::body(&header);
            *part = Some(Part {
                pack,
                header,
                incoming,
                frame: 0,
                at,
            });
        }
        let Some(part) = part.as_mut() else {
            return Err(Failed::NotThere);
        };
        let count = part.header.frames.len() - part.frame;
        let frames = ask(Ask::Frames(PeerFrames {
            layer: layer.as_bytes().to_vec(),
            pack: pack.as_bytes().to_vec(),
            first: u32::try_from(part.frame).unwrap_or(u32::MAX),
            count: u32::try_from(count).unwrap_or(u32::MAX),
        }));
        let (mut stream, follows) = self.asked(daemon, &frames).await?;
        if follows != part.header.stored() - part.header.stored_before(part.frame) {
            return Err(Failed::Lied);
        }
        let megabytes = u32::try_from(follows >> 20).unwrap_or(u32::MAX);
        let limit = BODY.saturating_add(PER_MB.saturating_mul(megabytes));
        let receiving = tokio::time::timeout(limit, receive(part, &mut stream, bytes));
        receiving.await.map_err(|_| Failed::Away)?
    }

    async fn header(
        &self,
        daemon: &CacheDaemon,
        request: &PeerRequest,
        pack: &Digest,
        layer: &Digest,
    ) -> Result<(Header, Vec<u8>), Failed> {
        let (mut stream, follows) = self.asked(daemon, request).await?;
        let length = usize::try_from(follows).map_err(|_| Failed::Lied)?;
        if length > HEADER_MAX {
            return Err(Failed::Lied);
        }
        let mut encoded = vec![0; length];
        let read = stream.read_exact(&mut encoded).await;
        read.map_err(|_| Failed::Away)?;
        let header = Header::decode(&encoded).map_err(|_| Failed::Lied)?;
        let first = header.blobs.first().map(|(digest, _)| digest);
        if Digest::of(&encoded) != *pack || first != Some(layer) {
            return Err(Failed::Lied);
        }
        Ok((header, encoded))
    }

    async fn asked(
        &self,
        daemon: &CacheDaemon,
        request: &PeerRequest,
    ) -> Result<(Box<dyn Stream>, u64), Failed> {
        let mut stream = self.lanes.open(daemon).await.map_err(|error| {
            tracing::info!(daemon = daemon.id, "no way to a peer: {error:#}");
            Failed::Away
        })?;
        let asking = async {
            say(&mut stream, request).await?;
            tokio::io::AsyncWriteExt::flush(&mut stream).await?;
            hear::<PeerAnswer>(&mut stream).await
        };
        let answer = tokio::time::timeout(FIRST_BYTE, asking).await;
        match answer
            .map_err(|_| Failed::Away)?
            .map_err(|_| Failed::Away)?
            .answer
        {
            Some(Answer::Follows(bytes)) => Ok((stream, bytes)),
            Some(Answer::BusyMs(wait)) => {
                Err(Failed::Busy(Duration::from_millis(wait.min(1_000).into())))
            }
            _ => Err(Failed::NotThere),
        }
    }

    /// A whole pack becomes blobs.
    async fn unpack(&self, layer: &Digest) {
        let (store, layer) = (Arc::clone(&self.store), *layer);
        let unpacking = tokio::task::spawn_blocking(move || {
            if store.has_pack(&layer)
                && let Err(error) = store.unpack(&layer)
            {
                tracing::warn!(%error, %layer, "a fetched layer cannot be taken apart");
            }
        });
        // A panic inside is in the log already; then it stays missing.
        let _ended = unpacking.await;
    }
}

/// Hashes and writes while the bytes come: a frame that is wrong is known at its end.
async fn receive(
    part: &mut Part<'_>,
    stream: &mut Box<dyn Stream>,
    bytes: &mut u64,
) -> Result<(), Failed> {
    let mut piece = vec![0; PIECE];
    while let Some(frame) = part.header.frames.get(part.frame) {
        let mut hasher = blake3::Hasher::new();
        let mut left = frame.stored as usize;
        let mut at = part.at;
        while left > 0 {
            let want = left.min(PIECE);
            let Some(piece) = piece.get_mut(..want) else {
                return Err(Failed::Lied);
            };
            let read = stream.read_exact(piece).await;
            read.map_err(|_| Failed::Away)?;
            hasher.update(piece);
            let written = part.incoming.write_at(piece, at);
            written.map_err(|error| Failed::Here(error.into()))?;
            at += want as u64;
            left -= want;
            *bytes += want as u64;
        }
        if hasher.finalize().as_bytes() != frame.digest.as_bytes() {
            return Err(Failed::Lied);
        }
        part.at = at;
        part.frame += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_never_has_time_is_given_up_after_the_time_of_a_lookup() {
        for says in [
            Duration::ZERO,
            Duration::from_millis(200),
            Duration::from_secs(1),
        ] {
            let mut patience = Patience::default();
            let waited: Duration = std::iter::from_fn(|| patience.more(says)).sum();
            assert!(
                waited <= LOOKUP && waited + Duration::from_secs(1) >= LOOKUP,
                "{says:?}"
            );
        }
    }
}
