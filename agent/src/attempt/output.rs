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
/// Silence after the container has ended that counts as the end of its output. Of silence alone: a busy
/// host takes its time over what the engine has kept, and how much that is has a limit.
const SILENCE: Duration = Duration::from_secs(10);

type Pieces = BoxStream<'static, Result<Bytes, SandboxError>>;

/// What came after the end of the container.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rest {
    Piece(Bytes),
    Over,
    /// The engine has not said that this is all, and gives nothing.
    Silent,
}

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
    silence: Duration,
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
            silence: SILENCE,
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
    pub(super) async fn rest(&mut self, broke: bool) -> Rest {
        if self.pieces.is_none() && (broke || self.broke) && !self.read_again {
            self.read_again = true;
            self.again();
        }
        match tokio::time::timeout(self.silence, self.piece()).await {
            Ok(Some(bytes)) => Rest::Piece(bytes),
            Ok(None) => Rest::Over,
            Err(_) => Rest::Silent,
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::fake::FakeSandbox;

    /// Pieces that come so far apart, and then nothing, or the end.
    fn coming(every: Duration, pieces: u8, ends: bool) -> Output {
        let sandbox: Arc<dyn Sandbox> = Arc::new(FakeSandbox::new());
        let key = AttemptKey {
            stage: "01J0000000000000000000000A".parse().expect("good"),
            attempt: 1,
        };
        let slow = futures::stream::iter(0..pieces).then(move |piece| async move {
            tokio::time::sleep(every).await;
            Ok(Bytes::from(vec![piece]))
        });
        let open = futures::stream::iter((!ends).then_some(()))
            .then(|()| std::future::pending::<Result<Bytes, SandboxError>>());
        Output {
            pieces: Some(slow.chain(open).boxed()),
            silence: Duration::from_secs(2),
            ..Output::open(&sandbox, &key)
        }
    }

    async fn read(mut output: Output) -> (Vec<u8>, Rest) {
        let mut bytes = Vec::new();
        loop {
            match output.rest(false).await {
                Rest::Piece(piece) => bytes.extend_from_slice(&piece),
                last => return (bytes, last),
            }
        }
    }

    #[tokio::test]
    async fn however_slowly_output_comes_after_the_end_all_of_it_is_taken() {
        let slow = coming(Duration::from_millis(150), 20, true);
        assert_eq!(read(slow).await, ((0..20).collect(), Rest::Over));
    }

    #[tokio::test]
    async fn an_engine_that_never_says_that_this_is_all_is_waited_for_only_so_long() {
        let open = coming(Duration::from_millis(10), 3, false);
        assert_eq!(read(open).await, (vec![0, 1, 2], Rest::Silent));
    }
}
