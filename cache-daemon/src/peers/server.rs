//! Answering other daemons: who shows a capability for a layer gets its pack, everybody else hears that
//! it is not there.

use std::sync::Arc;
use std::time::Duration;

use quinn::Endpoint;
use slipway_core::cache::capability::Capability;
use slipway_core::digest::Digest;
use slipway_daemon::{Clock, Shutdown};
use slipway_identity::{Own, Peer, authority, peers};
use slipway_proto::v1::peer_answer::Answer;
use slipway_proto::v1::peer_request::Ask;
use slipway_proto::v1::{PeerAnswer, PeerHas, PeerRequest};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::{Stream, hear, say};
use crate::Store;
use crate::blobs::Pack;

/// Reads served at once: more would only make all of them slower.
const UPLOADS: usize = 4;
/// When a refused one may ask again.
const BUSY_MS: u32 = 200;
/// Connections at once, of all peers.
const CONNECTIONS: usize = 256;
/// Open connections above which a new one must first prove its address.
const CALM: usize = 64;
/// Layers of one question.
const HAVE_MAX: usize = 1_000;
/// Bytes read from the disk at once.
const PIECE: u64 = 1 << 20;
/// Longest silence of somebody who began to ask.
const ASK: Duration = Duration::from_secs(10);
/// Longest time in which a reader takes nothing.
const STALLED: Duration = Duration::from_secs(30);

/// The answering end.
pub(super) struct Server {
    store: Arc<Store>,
    own: Own,
    clock: Clock,
    uploads: Semaphore,
    connections: Arc<Semaphore>,
}

impl Server {
    pub(super) fn new(store: Arc<Store>, own: Own, clock: Clock) -> Self {
        Self {
            store,
            own,
            clock,
            uploads: Semaphore::new(UPLOADS),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
        }
    }

    pub(super) async fn answer_quic(self: Arc<Self>, endpoint: Endpoint, shutdown: Shutdown) {
        loop {
            let incoming = tokio::select! {
                () = shutdown.cancelled() => break,
                incoming = endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { break };
            let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            let crowded = self.connections.available_permits() < CONNECTIONS - CALM;
            if crowded && !incoming.remote_address_validated() {
                let _the_address_is_proven_already = incoming.retry();
                continue;
            }
            let server = Arc::clone(&self);
            slipway_daemon::spawn("peer", async move {
                let _place = place;
                let Ok(connection) = incoming.await else {
                    return;
                };
                let Some(peer) = peers::behind(connection.peer_identity()) else {
                    return;
                };
                while let Ok((send, receive)) = connection.accept_bi().await {
                    let (server, peer) = (Arc::clone(&server), peer.clone());
                    slipway_daemon::spawn("peer's request", async move {
                        let mut stream = tokio::io::join(receive, send);
                        server.once(&peer, &mut stream).await;
                    });
                }
            });
        }
        endpoint.close(0_u32.into(), b"stopping");
    }

    pub(super) async fn answer_tcp(self: Arc<Self>, listener: TcpListener, shutdown: Shutdown) {
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                // Out of handles: not a busy loop.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else {
                continue;
            };
            let server = Arc::clone(&self);
            slipway_daemon::spawn("peer over TCP", async move {
                let _place = place;
                let shaking = tokio::time::timeout(ASK, server.own.answer_over_tcp(stream));
                if let Ok(Ok((peer, mut stream))) = shaking.await {
                    // A fetch asks twice on one connection.
                    while server.once(&peer, &mut stream).await {}
                }
            });
        }
    }

    /// One question and its answer; false when there was none.
    async fn once(&self, peer: &Peer, stream: &mut impl Stream) -> bool {
        let asked = tokio::time::timeout(ASK, hear::<PeerRequest>(stream)).await;
        let Ok(Ok(request)) = asked else { return false };
        let answered = self.answer(peer, request, stream).await;
        if let Err(error) = &answered {
            tracing::debug!(%error, peer = peer.name.id, "a peer was not answered");
        }
        answered.is_ok() && stream.flush().await.is_ok()
    }

    async fn answer(
        &self,
        peer: &Peer,
        request: PeerRequest,
        stream: &mut impl Stream,
    ) -> std::io::Result<()> {
        let given = self.capability(peer, &request);
        let allowed = |layer: &[u8]| {
            let layer = Digest::from_bytes(layer.try_into().ok()?);
            let now = self.clock.now();
            let allows = given.as_ref()?.allows(&peer.name.id, &layer, now);
            allows.is_ok().then_some(layer)
        };
        match request.ask {
            Some(Ask::Have(have)) => {
                let layers = have.layers.iter().take(HAVE_MAX);
                let here = layers.map(|l| allowed(l).is_some_and(|l| self.store.has_pack(&l)));
                let present = here.collect();
                say(stream, &answer(Answer::Has(PeerHas { present }))).await
            }
            Some(Ask::Header(ask)) => match self.pack(allowed(&ask.layer)).await {
                Some(pack) => {
                    say(stream, &answer(Answer::Follows(pack.encoded.len() as u64))).await?;
                    stream.write_all(&pack.encoded).await
                }
                None => say(stream, &answer(Answer::NotFound(true))).await,
            },
            Some(Ask::Frames(ask)) => {
                let Some(pack) = self.pack(allowed(&ask.layer)).await else {
                    return say(stream, &answer(Answer::NotFound(true))).await;
                };
                let (first, count) = (ask.first as usize, ask.count as usize);
                let end = first.saturating_add(count);
                if pack.id.as_bytes() != ask.pack.as_slice() || end > pack.header.frames.len() {
                    return say(stream, &answer(Answer::NotFound(true))).await;
                }
                let Ok(_place) = self.uploads.try_acquire() else {
                    return say(stream, &answer(Answer::BusyMs(BUSY_MS))).await;
                };
                let range = pack.header.stored_before(first)..pack.header.stored_before(end);
                say(stream, &answer(Answer::Follows(range.end - range.start))).await?;
                self.send(Arc::new(pack), range, stream).await
            }
            None => say(stream, &answer(Answer::NotFound(true))).await,
        }
    }

    /// What the dispatcher lets the caller read, if its certificate and the signature are good.
    fn capability(&self, peer: &Peer, request: &PeerRequest) -> Option<Capability> {
        if !peers::is_cache(peer, self.clock.now()) {
            return None;
        }
        let shown = request.capability.as_ref()?;
        let own = self.own.now();
        let signed = authority::has_signed(own.authority(), &shown.statement, &shown.signature);
        signed
            .then(|| Capability::decode(&shown.statement))
            .flatten()
    }

    async fn pack(&self, layer: Option<Digest>) -> Option<Pack> {
        let layer = layer?;
        let store = Arc::clone(&self.store);
        let opening = tokio::task::spawn_blocking(move || store.pack(&layer).ok());
        opening.await.ok().flatten()
    }

    async fn send(
        &self,
        pack: Arc<Pack>,
        range: std::ops::Range<u64>,
        stream: &mut impl Stream,
    ) -> std::io::Result<()> {
        let mut at = range.start;
        let read = |at: u64| {
            let pack = Arc::clone(&pack);
            let length = PIECE.min(range.end - at) as usize;
            tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; length];
                pack.read_at(at, &mut piece).map(|()| piece)
            })
        };
        let mut next = (at < range.end).then(|| read(at));
        while let Some(reading) = next {
            let piece = reading.await.map_err(std::io::Error::other)??;
            at += piece.len() as u64;
            // The next piece is read while this one leaves.
            next = (at < range.end).then(|| read(at));
            let sending = tokio::time::timeout(STALLED, stream.write_all(&piece));
            sending.await.map_err(std::io::Error::other)??;
            self.store
                .counters()
                .served_bytes
                .inc_by(piece.len() as u64);
        }
        Ok(())
    }
}

fn answer(answer: Answer) -> PeerAnswer {
    PeerAnswer {
        answer: Some(answer),
    }
}
