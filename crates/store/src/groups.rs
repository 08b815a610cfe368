//! Like writes that wait at once are one command: what agents report comes in bursts, and a burst then costs
//! as many round trips as one report. There is no timer: what is alone is written alone.
//!
//! Does not know what is written; `finish` and `queue` say that.

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use crate::error::StoreError;
use crate::queue::Beginning;
use crate::results::{AttemptResult, Finished};
use crate::writer::{Tx, Writer, in_background};
use crate::{finish, queue};

/// Writes that wait; beyond it callers wait.
const QUEUE: usize = 1_024;
/// Writes of one command.
const GROUP: usize = 64;

/// Writes all of them and answers each, in order.
type Together<I, O> = for<'t> fn(&'t mut Tx, Vec<I>) -> BoxFuture<'t, Result<Vec<O>, StoreError>>;

struct Waiting<I, O> {
    one: I,
    answer: oneshot::Sender<Result<O, StoreError>>,
}

/// The door for one kind of write. Cheap to clone.
pub(crate) struct Group<I, O> {
    queue: mpsc::Sender<Waiting<I, O>>,
}

/// All kinds.
#[derive(Clone)]
pub(crate) struct Groups {
    pub(crate) results: Group<AttemptResult, Finished>,
    pub(crate) beginnings: Group<Beginning, bool>,
}

impl Groups {
    pub(crate) fn start(writer: &Writer) -> Self {
        Self {
            results: Group::start(writer.clone(), finish::together),
            beginnings: Group::start(writer.clone(), queue::begin_together),
        }
    }
}

impl<I, O> Clone for Group<I, O> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
        }
    }
}

impl<I: Clone + Send + 'static, O: Send + 'static> Group<I, O> {
    /// Only a leader may do them.
    pub(crate) fn start(writer: Writer, together: Together<I, O>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        in_background(serve(writer, waiting, together));
        Self { queue }
    }

    /// Queues one and waits until it is durable.
    pub(crate) async fn submit(&self, one: I) -> Result<O, StoreError> {
        let gone = || StoreError::Unavailable("the writer has stopped".to_owned());
        let (answer, done) = oneshot::channel();
        let waiting = Waiting { one, answer };
        self.queue.send(waiting).await.map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }
}

async fn serve<I: Clone + Send + 'static, O: Send + 'static>(
    writer: Writer,
    mut waiting: mpsc::Receiver<Waiting<I, O>>,
    together: Together<I, O>,
) {
    let mut group: Vec<Waiting<I, O>> = Vec::with_capacity(GROUP);
    while waiting.recv_many(&mut group, GROUP).await > 0 {
        let all = group.iter().map(|w| w.one.clone()).collect();
        match write(&writer, all, together).await {
            Ok(all) => {
                for (waiting, outcome) in group.drain(..).zip(all) {
                    waiting.answer(Ok(outcome));
                }
            }
            Err(StoreError::NotLeader) => {
                for waiting in group.drain(..) {
                    waiting.answer(Err(StoreError::NotLeader));
                }
            }
            Err(StoreError::Unavailable(why)) => {
                for waiting in group.drain(..) {
                    waiting.answer(Err(StoreError::Unavailable(why.clone())));
                }
            }
            // One of them is at fault: the others must not fail with it.
            Err(_) => {
                for waiting in group.drain(..) {
                    let alone = write(&writer, vec![waiting.one.clone()], together).await;
                    let missing = || StoreError::Corrupt("a write without an answer".to_owned());
                    waiting.answer(alone.and_then(|mut all| all.pop().ok_or_else(missing)));
                }
            }
        }
    }
}

impl<I, O> Waiting<I, O> {
    fn answer(self, outcome: Result<O, StoreError>) {
        // The caller may have gone; the write stands all the same.
        let _gone = self.answer.send(outcome);
    }
}

async fn write<I: Send + 'static, O: Send + 'static>(
    writer: &Writer,
    all: Vec<I>,
    together: Together<I, O>,
) -> Result<Vec<O>, StoreError> {
    writer.submit(true, move |tx| together(tx, all)).await
}
