//! The one that is there.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use slipway_daemon::Shutdown;
use tokio::net::{UnixListener, UnixStream};

use super::{Ask, BATCH, PROTOCOL, SOCKET, Say, line};
use crate::services::{Frozen, Services};

/// For each message of one that comes: until then nothing can be changed here.
const ANSWER: Duration = Duration::from_secs(10);

/// What is offered.
pub(crate) struct Offer {
    listener: UnixListener,
    services: Arc<Services>,
    /// Begins when the sockets are somebody else's.
    leaving: Shutdown,
}

impl Offer {
    /// Opens the socket. `bind` closes it to other users and gives it its name.
    pub(crate) fn new(
        state_dir: &Path,
        bind: impl FnOnce(&Path) -> io::Result<UnixListener>,
        services: Arc<Services>,
        leaving: Shutdown,
    ) -> io::Result<Self> {
        Ok(Self {
            listener: bind(&state_dir.join(SOCKET))?,
            services,
            leaving,
        })
    }

    pub(crate) fn services(&self) -> &Services {
        &self.services
    }
}

/// Offers until the sockets are handed over, and then answers what is still in flight here, until
/// shutdown.
pub(crate) async fn offer(offer: Offer, shutdown: Shutdown) {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = offer.listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a hand-over");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        match handed(&stream, &offer.services).await {
            Ok(Some(frozen)) => {
                frozen.leave();
                offer.leaving.begin();
                tracing::info!("the sockets are handed over: answering what is in flight");
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = remaining(&stream, &offer.services) => {}
                }
                return;
            }
            Ok(None) => tracing::warn!("who came for the sockets left again: nothing has changed"),
            Err(error) => tracing::warn!(%error, "a hand-over broke: nothing has changed"),
        }
    }
}

/// Until the other is ready; what is frozen stays so until then. `None` = it left.
async fn handed<'a>(stream: &UnixStream, services: &'a Services) -> io::Result<Option<Frozen<'a>>> {
    let mut frozen = None;
    loop {
        let next = tokio::time::timeout(ANSWER, line::receive::<Ask>(stream)).await;
        let Some((ask, _)) = next.map_err(|_| io::ErrorKind::TimedOut)?? else {
            return Ok(None);
        };
        match ask {
            Ask::Listeners { protocol, .. } if protocol != PROTOCOL => {
                let why = format!("hand-over protocol {PROTOCOL} is spoken here, not {protocol}");
                line::send(stream, &Say::Refused { why }, &[]).await?;
                return Ok(None);
            }
            Ask::Listeners { from, .. } => {
                if frozen.is_none() {
                    frozen = Some(services.freeze().await);
                }
                let all = frozen.as_ref().map(Frozen::sockets).transpose()?;
                let all = all.unwrap_or_default();
                let some: Vec<_> = all.iter().skip(from).take(BATCH).collect();
                let say = Say::Listeners {
                    addresses: some.iter().map(|(address, _)| address.clone()).collect(),
                    of: all.len(),
                };
                let sockets: Vec<_> = some.iter().map(|(_, socket)| socket.as_fd()).collect();
                line::send(stream, &say, &sockets).await?;
            }
            Ask::Ready => {
                line::send(stream, &Say::Leaving, &[]).await?;
                return Ok(frozen);
            }
            Ask::InFlight { .. } => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Says what is in flight until nobody asks any more.
async fn remaining(stream: &UnixStream, services: &Services) {
    while let Ok(Some((Ask::InFlight { service, version }, _))) = line::receive(stream).await {
        let requests = services.in_flight_at(&service, &version);
        let say = Say::InFlight {
            service,
            version,
            requests,
        };
        if line::send(stream, &say, &[]).await.is_err() {
            return;
        }
    }
}
