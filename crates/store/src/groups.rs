//! Like writes that wait at once are one command: what agents report comes in bursts, and a burst then costs
//! as many round trips as one report. There is no timer: what is alone is written alone.
//!
//! Does not know what is written; `creations`, `finish`, `inbox`, `queue` and `repositories` say that.

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use crate::builds::{Created, NewBuild};
use crate::creations::create_together;
use crate::error::StoreError;
use crate::queue::Beginning;
use crate::repositories::{SeenHead, put_heads_together};
use crate::results::{AttemptResult, Finished};
use crate::writer::{Tx, Writer, in_background};
use crate::{finish, inbox, queue};

/// Writes that wait; beyond it callers wait.
const QUEUE: usize = 1_024;
/// Writes of one command.
const GROUP: usize = 64;
/// Only a leader may do these.
const LEADERS: bool = true;
const ANYBODYS: bool = false;

/// Writes all of them and answers each, in order.
type Together<I, O> = for<'t> fn(&'t mut Tx, Vec<I>) -> BoxFuture<'t, Result<Vec<O>, StoreError>>;

struct Waiting<I, O> {
    one: I,
    answer: oneshot::Sender<Result<O, StoreError>>,
}

/// How one kind of write is done.
struct Kind<I, O> {
    leaders: bool,
    together: Together<I, O>,
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
    pub(crate) creations: Group<NewBuild, Created>,
    pub(crate) heads: Group<SeenHead, ()>,
    /// Deliveries that are about to be looked at.
    pub(crate) tries: Group<String, ()>,
}

impl Groups {
    pub(crate) fn start(writer: &Writer) -> Self {
        Self {
            results: Group::start(writer, LEADERS, finish::together),
            beginnings: Group::start(writer, LEADERS, queue::begin_together),
            // A second one is refused by the database: whoever wants may try.
            creations: Group::start(writer, ANYBODYS, create_together),
            heads: Group::start(writer, ANYBODYS, put_heads_together),
            tries: Group::start(writer, ANYBODYS, inbox::count_together),
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
    fn start(writer: &Writer, leaders: bool, together: Together<I, O>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let kind = Kind { leaders, together };
        in_background(serve(writer.clone(), waiting, kind));
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
    kind: Kind<I, O>,
) {
    let mut group: Vec<Waiting<I, O>> = Vec::with_capacity(GROUP);
    while waiting.recv_many(&mut group, GROUP).await > 0 {
        let all = group.iter().map(|w| w.one.clone()).collect();
        match write(&writer, all, &kind).await {
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
                    let alone = write(&writer, vec![waiting.one.clone()], &kind).await;
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
    kind: &Kind<I, O>,
) -> Result<Vec<O>, StoreError> {
    let together = kind.together;
    let written = writer.submit(kind.leaders, move |tx| together(tx, all));
    written.await
}
