//! A stage's output over breaks of the engine that carries it. The engine keeps all of it from the beginning:
//! what breaks off is read again, and what was seen already is skipped.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use slipway_proto::convert::AttemptKey;
use tokio::time::Sleep;

use crate::sandbox::{Sandbox, SandboxError};

/// Before broken output is read again; the container that it ended with is seen to have ended by then.
const AGAIN: Duration = Duration::from_secs(1);

type Pieces = BoxStream<'static, Result<Bytes, SandboxError>>;

pub(super) struct Output {
    sandbox: Arc<dyn Sandbox>,
    key: AttemptKey,
    /// `None`: it ended, or broke.
    pieces: Option<Pieces>,
    broke: bool,
    /// After the end, which is enough.
    read_again: bool,
    /// Until it is read again.
    pause: Option<Pin<Box<Sleep>>>,
    /// Bytes given out.
    given: u64,
    /// Bytes of these pieces that were given out before.
    skip: u64,
}

impl Output {
    pub(super) fn open(sandbox: &Arc<dyn Sandbox>, key: &AttemptKey) -> Self {
        Self {
            pieces: Some(sandbox.output(key)),
            sandbox: Arc::clone(sandbox),
            key: key.clone(),
            broke: false,
            read_again: false,
            pause: None,
            given: 0,
            skip: 0,
        }
    }

    /// The next piece. Never ends by itself: the end of the container is seen elsewhere. Nothing is lost
    /// when this is given up.
    pub(super) async fn next(&mut self) -> Bytes {
        loop {
            if let Some(bytes) = self.piece().await {
                return bytes;
            }
            // Kept: whoever gives this up comes again before it is over.
            let sleep = || Box::pin(tokio::time::sleep(AGAIN));
            self.pause.get_or_insert_with(sleep).await;
            self.again();
        }
    }

    /// What is left after the end of the container; read again once where it broke off.
    pub(super) async fn rest(&mut self, broke: bool) -> Option<Bytes> {
        if self.pieces.is_none() && (broke || self.broke) && !self.read_again {
            self.read_again = true;
            self.again();
        }
        self.piece().await
    }

    fn again(&mut self) {
        self.skip = self.given;
        self.broke = false;
        self.pause = None;
        self.pieces = Some(self.sandbox.output(&self.key));
    }

    /// `None` when the pieces are over.
    async fn piece(&mut self) -> Option<Bytes> {
        loop {
            match self.pieces.as_mut()?.next().await {
                Some(Ok(bytes)) => {
                    if let Some(new) = self.new_of(bytes) {
                        return Some(new);
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, stage = %self.key.stage, "output broke off");
                    self.broke = true;
                    self.pieces = None;
                }
                None => self.pieces = None,
            }
        }
    }

    fn new_of(&mut self, mut bytes: Bytes) -> Option<Bytes> {
        let seen = usize::try_from(self.skip).unwrap_or(usize::MAX);
        let seen = seen.min(bytes.len());
        bytes.advance(seen);
        self.skip -= seen as u64;
        self.given += bytes.len() as u64;
        (!bytes.is_empty()).then_some(bytes)
    }
}
