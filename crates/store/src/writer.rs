//! The one writer of a process.
//!
//! All writes queue here. The writer takes everything queued, applies each command inside a savepoint
//! of one transaction, commits, and only then answers everyone. There is no timer: an idle write
//! costs one commit, and under load the fsync is shared. A command that fails rolls back its own
//! savepoint and nobody else's.

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres, Sqlite, SqlitePool};
use tokio::sync::{mpsc, oneshot};

use crate::db::Db;
use crate::error::StoreError;
use crate::sql::{self, Arg, Rows};

/// Commands waiting for the writer; beyond it callers wait (back-pressure).
const QUEUE: usize = 1_024;
/// Commands per transaction, so that nobody waits behind an endless batch.
const BATCH: usize = 256;

/// What this process may write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nobody asked it to take part in an election: everything (a coordinator, tools, tests).
    #[default]
    Free,
    /// It leads under this epoch; each transaction that needs it checks that no other took over.
    Leading(i64),
    /// Another one leads.
    Following,
}

/// A transaction under way.
pub enum Tx {
    /// SQLite.
    Sqlite(PoolConnection<Sqlite>),
    /// PostgreSQL.
    Postgres(PoolConnection<Postgres>),
}

impl Tx {
    /// Executes a statement; answers with the number of rows it changed.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn execute(
        &mut self,
        statement: &'static str,
        args: Vec<Arg>,
    ) -> Result<u64, StoreError> {
        Ok(match self {
            Self::Sqlite(c) => {
                let query = sqlx::query_with(statement, sql::sqlite(args)?);
                query.execute(&mut **c).await?.rows_affected()
            }
            Self::Postgres(c) => {
                let query = sqlx::query_with(statement, sql::postgres(args)?);
                query.execute(&mut **c).await?.rows_affected()
            }
        })
    }

    /// All rows of a statement.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn rows<T: Rows>(
        &mut self,
        statement: &'static str,
        args: Vec<Arg>,
    ) -> Result<Vec<T>, StoreError> {
        Ok(match self {
            Self::Sqlite(c) => {
                sqlx::query_as_with(statement, sql::sqlite(args)?)
                    .fetch_all(&mut **c)
                    .await?
            }
            Self::Postgres(c) => {
                sqlx::query_as_with(statement, sql::postgres(args)?)
                    .fetch_all(&mut **c)
                    .await?
            }
        })
    }

    /// The first row of a statement.
    ///
    /// # Errors
    /// Whatever the database says.
    pub async fn row<T: Rows>(
        &mut self,
        statement: &'static str,
        args: Vec<Arg>,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.rows(statement, args).await?.into_iter().next())
    }

    /// Begins on PostgreSQL; whether `epoch` still leads. The row's key is shared until the transaction
    /// ends, so that nobody takes over meanwhile.
    async fn begin_fenced(&mut self, epoch: Option<i64>) -> Result<bool, StoreError> {
        let (Some(epoch), Self::Postgres(c)) = (epoch, &mut *self) else {
            self.control("BEGIN").await?;
            return Ok(true);
        };
        let statement = format!(
            "BEGIN; SELECT 1 FROM leaders WHERE name = 'dispatcher' AND epoch = {epoch} FOR KEY SHARE"
        );
        let asked = sqlx::raw_sql(sqlx::AssertSqlSafe(statement));
        Ok(asked.fetch_all(&mut **c).await?.len() == 1)
    }

    async fn control(&mut self, statement: &'static str) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(c) => sqlx::raw_sql(statement)
                .execute(&mut **c)
                .await
                .map(|_| ())?,
            Self::Postgres(c) => sqlx::raw_sql(statement)
                .execute(&mut **c)
                .await
                .map(|_| ())?,
        }
        Ok(())
    }
}

/// Where transactions come from.
enum Pool {
    Sqlite(SqlitePool),
    /// While more is queued the connection of the last transaction is kept: to get one from the pool
    /// costs a question to the server, whether it is still there.
    Postgres(PgPool, Option<PoolConnection<Postgres>>),
}

impl Pool {
    /// Begins; and, in the same round trip, asks whether `epoch` still leads.
    async fn begin(&mut self, epoch: Option<i64>) -> Result<(Tx, bool), StoreError> {
        match self {
            // One process has the file: nobody can have taken over.
            Self::Sqlite(pool) => {
                let mut tx = Tx::Sqlite(pool.acquire().await?);
                // IMMEDIATE: the lock is taken now, not at the first write, where it could deadlock.
                tx.control("BEGIN IMMEDIATE").await?;
                Ok((tx, true))
            }
            Self::Postgres(pool, kept) => {
                if let Some(kept) = kept.take() {
                    let mut tx = Tx::Postgres(kept);
                    if let Ok(leads) = tx.begin_fenced(epoch).await {
                        return Ok((tx, leads));
                    }
                }
                let mut tx = Tx::Postgres(pool.acquire().await?);
                let leads = tx.begin_fenced(epoch).await?;
                Ok((tx, leads))
            }
        }
    }

    /// For the next transaction.
    fn keep(&mut self, tx: Tx) {
        if let (Self::Postgres(_, kept), Tx::Postgres(connection)) = (self, tx) {
            *kept = Some(connection);
        }
    }
}

trait Command: Send {
    /// Whether only a leader may do it.
    fn is_leaders(&self) -> bool;
    /// It is not applied: this process does not lead.
    fn refuse(&mut self);
    fn apply<'a>(&'a mut self, tx: &'a mut Tx) -> BoxFuture<'a, bool>;
    fn settle(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Write<T, F> {
    leaders: bool,
    body: Option<F>,
    result: Option<Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Command for Write<T, F>
where
    T: Send,
    F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, StoreError>> + Send,
{
    fn is_leaders(&self) -> bool {
        self.leaders
    }

    fn refuse(&mut self) {
        self.body = None;
        self.result = Some(Err(StoreError::NotLeader));
    }

    fn apply<'a>(&'a mut self, tx: &'a mut Tx) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            // Refused.
            let Some(body) = self.body.take() else {
                return false;
            };
            let result = body(tx).await;
            let good = result.is_ok();
            self.result = Some(result);
            good
        })
    }

    fn settle(self: Box<Self>, committed: Result<(), StoreError>) {
        let outcome = match (committed, self.result) {
            (_, Some(Err(error))) => Err(error),
            (Ok(()), Some(Ok(value))) => Ok(value),
            (Err(error), _) => Err(error),
            (Ok(()), None) => Err(StoreError::Unavailable(
                "the write was not tried".to_owned(),
            )),
        };
        // The caller may have gone; the write stands all the same.
        let _gone = self.answer.send(outcome);
    }
}

/// The door to the writer. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Box<dyn Command>>,
    standing: Arc<Mutex<Standing>>,
}

impl Writer {
    pub(crate) fn sqlite(pool: SqlitePool) -> Self {
        Self::start(Pool::Sqlite(pool))
    }

    pub(crate) fn postgres(pool: PgPool) -> Self {
        Self::start(Pool::Postgres(pool, None))
    }

    fn start(pool: Pool) -> Self {
        let (queue, commands) = mpsc::channel(QUEUE);
        let standing: Arc<Mutex<Standing>> = Arc::default();
        in_background(serve(pool, commands, Arc::clone(&standing)));
        Self { queue, standing }
    }

    /// From the next transaction on.
    pub(crate) fn stand(&self, standing: Standing) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }

    /// Queues one write and waits until it is durable.
    pub(crate) async fn submit<T, F>(&self, leaders: bool, body: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, StoreError>> + Send + 'static,
    {
        let (answer, done) = oneshot::channel();
        let command = Write {
            leaders,
            body: Some(body),
            result: None,
            answer,
        };
        let gone = || StoreError::Unavailable("the writer has stopped".to_owned());
        self.queue
            .send(Box::new(command))
            .await
            .map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }

    /// Waits until everything queued so far was answered.
    pub(crate) async fn close(&self) {
        let barrier = self.submit(false, |_| Box::pin(async { Ok(()) })).await;
        if let Err(error) = barrier {
            tracing::debug!(%error, "nothing left to wait for");
        }
    }
}

/// Executes what serves a queue; it ends when nobody can queue any more.
#[expect(
    clippy::disallowed_methods,
    reason = "the store imports core only; ends by itself"
)]
pub(crate) fn in_background(serving: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(serving);
}

async fn serve(
    mut pool: Pool,
    mut commands: mpsc::Receiver<Box<dyn Command>>,
    standing: Arc<Mutex<Standing>>,
) {
    let mut batch: Vec<Box<dyn Command>> = Vec::with_capacity(BATCH);
    while commands.recv_many(&mut batch, BATCH).await > 0 {
        let stands = *standing.lock().unwrap_or_else(PoisonError::into_inner);
        let committed = match transaction(&mut pool, &mut batch, stands).await {
            Ok(tx) => {
                if !commands.is_empty() {
                    pool.keep(tx);
                }
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, commands = batch.len(), "a batch of writes failed");
                Err(error.to_string())
            }
        };
        for command in batch.drain(..) {
            command.settle(committed.clone().map_err(StoreError::Unavailable));
        }
    }
}

async fn transaction(
    pool: &mut Pool,
    batch: &mut [Box<dyn Command>],
    standing: Standing,
) -> Result<Tx, StoreError> {
    let any = batch.iter().any(|command| command.is_leaders());
    let epoch = match standing {
        Standing::Leading(epoch) if any => Some(epoch),
        _ => None,
    };
    let (mut tx, leads) = pool.begin(epoch).await?;
    if !leads || standing == Standing::Following {
        for command in batch.iter_mut().filter(|command| command.is_leaders()) {
            command.refuse();
        }
    }
    let outcome = match apply_all(&mut tx, batch).await {
        Ok(end) => tx.control(end).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => Ok(tx),
        Err(error) => {
            // A connection in an unknown state must not serve the next batch inside this transaction.
            let _rolled_back = tx.control("ROLLBACK").await;
            Err(error)
        }
    }
}

/// PostgreSQL answers COMMIT without an error when a statement failed before it and the command hid
/// that, and then rolls back. These fail instead, in the same round trip.
const COMMIT_ALONE: &str = "SELECT 1; COMMIT";
const COMMIT: &str = "RELEASE SAVEPOINT command; COMMIT";

/// Applies each command; answers with how the transaction ends. Between two commands the savepoint
/// moves on in one round trip, and a command that is alone needs none.
async fn apply_all(
    tx: &mut Tx,
    batch: &mut [Box<dyn Command>],
) -> Result<&'static str, StoreError> {
    if let [alone] = batch {
        let end = if alone.apply(tx).await {
            COMMIT_ALONE
        } else {
            "ROLLBACK"
        };
        return Ok(end);
    }
    let (mut next, mut end) = ("SAVEPOINT command", COMMIT);
    for command in batch {
        tx.control(next).await?;
        (next, end) = if command.apply(tx).await {
            ("RELEASE SAVEPOINT command; SAVEPOINT command", COMMIT)
        } else {
            // The savepoint itself stays.
            (
                "ROLLBACK TO SAVEPOINT command",
                "ROLLBACK TO SAVEPOINT command; COMMIT",
            )
        };
    }
    Ok(end)
}

impl Db {
    /// Queues one write and waits until it is durable.
    pub(crate) async fn write<T, F>(&self, body: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, StoreError>> + Send + 'static,
    {
        self.writer().submit(false, body).await
    }

    /// The same for what only the leading dispatcher may do: refused with [`StoreError::NotLeader`]
    /// when this process does not lead, or does not lead any more.
    pub(crate) async fn write_leading<T, F>(&self, body: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<T, StoreError>> + Send + 'static,
    {
        self.writer().submit(true, body).await
    }
}
