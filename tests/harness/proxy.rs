//! A connection that can be cut: TCP carried from one port to another, or not, in either direction.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What is wrong with the line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Line {
    /// Nothing.
    #[default]
    Whole,
    /// Connections break at once, and none is taken.
    Cut,
    /// Everything is swallowed, and nobody is told.
    Silent,
    /// Only what goes to the server is swallowed.
    Deaf,
    /// Only what comes from the server is swallowed.
    Mute,
}

/// The line to one server. Cheap to clone; clones share.
#[derive(Clone)]
pub struct Proxy {
    at: SocketAddr,
    line: Arc<watch::Sender<Line>>,
}

impl Proxy {
    /// Opens one; it carries everything.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn open(to: SocketAddr) -> Self {
        let at = crate::free_address().expect("a free port");
        let listener = TcpListener::bind(at).await.expect("a port");
        let line = Arc::new(watch::Sender::new(Line::Whole));
        let state = line.subscribe();
        slipway_daemon::spawn("proxy", async move {
            while let Ok((from, _)) = listener.accept().await {
                slipway_daemon::spawn("line", carry(from, to, state.clone()));
            }
        });
        Self { at, line }
    }

    /// Where it listens.
    #[must_use]
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// From now on it is so.
    pub fn is(&self, line: Line) {
        self.line.send_replace(line);
    }
}

async fn carry(from: TcpStream, to: SocketAddr, mut line: watch::Receiver<Line>) {
    if *line.borrow() == Line::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(to).await else {
        return;
    };
    let _small_messages = (from.set_nodelay(true), server.set_nodelay(true));
    let (from_read, from_write) = from.into_split();
    let (server_read, server_write) = server.into_split();
    let there = pump(from_read, server_write, line.clone(), Line::Deaf);
    let back = pump(server_read, from_write, line.clone(), Line::Mute);
    tokio::select! {
        () = there => {}
        () = back => {}
        _ = line.wait_for(|line| *line == Line::Cut) => {}
    }
}

/// Carries one direction. Once something was swallowed the connection is of no use any more: it goes on
/// swallowing until it is broken, as a network does that forgot it.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    line: watch::Receiver<Line>,
    one_way: Line,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut forgotten = false;
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 {
            return;
        }
        let now = *line.borrow();
        forgotten |= now == Line::Silent || now == one_way;
        if !forgotten && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
