//! The one that comes.

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use super::{Ask, Handed, PROTOCOL, SOCKET, Say, line};

/// For each answer of the one that is there.
const ANSWER: Duration = Duration::from_secs(10);
/// For what it has in flight: it answers from memory.
const COUNT: Duration = Duration::from_secs(1);

/// The router process before this one, for as long as it answers.
pub(crate) struct Predecessor {
    stream: Mutex<Option<UnixStream>>,
}

/// Asks the router that serves from this state folder for its sockets; `None` when there is none.
pub(crate) async fn take_over(state_dir: &Path) -> anyhow::Result<Option<(Handed, Predecessor)>> {
    let Ok(stream) = UnixStream::connect(state_dir.join(SOCKET)).await else {
        return Ok(None);
    };
    let handed = sockets(&stream).await;
    let handed = handed.context("another router serves from this folder and kept its sockets")?;
    let stream = Mutex::new(Some(stream));
    Ok(Some((handed, Predecessor { stream })))
}

async fn sockets(stream: &UnixStream) -> anyhow::Result<Handed> {
    let mut handed = Handed::new();
    loop {
        let ask = Ask::Listeners {
            protocol: PROTOCOL,
            from: handed.len(),
        };
        let (addresses, of, sockets) = match asked(stream, &ask, ANSWER).await? {
            (Say::Listeners { addresses, of }, sockets) => (addresses, of, sockets),
            (Say::Refused { why }, _) => bail!("{why}"),
            _ => bail!("it answered something else"),
        };
        if addresses.len() != sockets.len() {
            bail!(
                "{} addresses came with {} sockets",
                addresses.len(),
                sockets.len()
            );
        }
        if addresses.is_empty() && handed.len() < of {
            bail!("{} of {of} sockets came", handed.len());
        }
        handed.extend(
            addresses
                .into_iter()
                .zip(sockets.into_iter().map(TcpListener::from)),
        );
        if handed.len() >= of {
            return Ok(handed);
        }
    }
}

async fn asked(
    stream: &UnixStream,
    ask: &Ask,
    limit: Duration,
) -> io::Result<(Say, Vec<std::os::fd::OwnedFd>)> {
    let asking = async {
        line::send(stream, ask, &[]).await?;
        line::receive(stream).await
    };
    let answer = tokio::time::timeout(limit, asking).await;
    let answer = answer.map_err(|_| io::ErrorKind::TimedOut)??;
    answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Its answer to this question, behind late ones to earlier questions.
async fn counted(stream: &UnixStream, ask: &Ask) -> io::Result<u64> {
    line::send(stream, ask, &[]).await?;
    loop {
        let Some((said, _)) = line::receive::<Say>(stream).await? else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let (
            Say::InFlight {
                service,
                version,
                requests,
            },
            Ask::InFlight {
                service: of,
                version: at,
            },
        ) = (said, ask)
        else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if service == *of && version == *at {
            return Ok(requests);
        }
    }
}

impl Predecessor {
    /// This process accepts now: the other one leaves.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        let stream = self.stream.lock().await;
        let Some(stream) = stream.as_ref() else {
            return Ok(());
        };
        match asked(stream, &Ask::Ready, ANSWER).await {
            Ok((Say::Leaving, _)) => Ok(()),
            Ok(_) => bail!("the router before this one did not leave"),
            Err(error) => Err(error).context("the router before this one did not leave"),
        }
    }

    /// Requests that it still has in flight at a version; 0 once it is gone.
    pub(crate) async fn in_flight_at(&self, service: &str, version: &str) -> u64 {
        let mut held = self.stream.lock().await;
        let Some(stream) = held.as_ref() else {
            return 0;
        };
        let ask = Ask::InFlight {
            service: service.to_owned(),
            version: version.to_owned(),
        };
        let counted = tokio::time::timeout(COUNT, counted(stream, &ask)).await;
        match counted {
            Ok(Ok(requests)) => requests,
            // It is gone, and everything that it had in flight with it.
            Ok(Err(_)) => {
                *held = None;
                0
            }
            // Not known is not nothing.
            Err(_) => 1,
        }
    }
}
