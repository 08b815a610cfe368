//! Opening a database, and reading from it.

use std::path::PathBuf;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use crate::error::StoreError;
use crate::groups::Groups;
use crate::lookups::Lookups;
use crate::sql::{self, Arg, Rows};
use crate::writer::Writer;

/// Which database.
#[derive(Clone, Debug)]
pub enum Settings {
    /// One file, one process.
    Sqlite(PathBuf),
    /// A connection address; several processes.
    Postgres(String),
}

/// The embedded database: one writing connection, several reading ones.
#[derive(Clone)]
pub struct Sqlite {
    pub(crate) read_pool: SqlitePool,
    pub(crate) write_pool: SqlitePool,
    pub(crate) writer: Writer,
    pub(crate) groups: Groups,
}

/// The served database.
#[derive(Clone)]
pub struct Postgres {
    pub(crate) pool: PgPool,
    pub(crate) writer: Writer,
    pub(crate) groups: Groups,
    pub(crate) lookups: Lookups,
}

/// A database of either engine. Cheap to clone.
#[derive(Clone)]
pub enum Db {
    /// SQLite.
    Sqlite(Sqlite),
    /// PostgreSQL.
    Postgres(Postgres),
}

/// Reading connections: pages and API calls; the queue lives in memory.
const READERS: u32 = 8;
/// A connection that idled for less is taken as it is.
const FRESH: Duration = Duration::from_secs(1);
/// How long a statement waits for a connection or a lock before the caller hears "unavailable".
const WAIT: Duration = Duration::from_secs(5);

impl Db {
    /// Opens and migrates.
    ///
    /// # Errors
    /// When the database cannot be reached or migrated.
    pub async fn open(settings: &Settings) -> Result<Self, StoreError> {
        let db = match settings {
            Settings::Sqlite(path) => {
                // FULL: with NORMAL a power cut may take committed transactions back.
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .foreign_keys(true)
                    .busy_timeout(WAIT);
                let pool = |n| {
                    SqlitePoolOptions::new()
                        .max_connections(n)
                        .acquire_timeout(WAIT)
                };
                let write_pool = pool(1).connect_with(options.clone()).await?;
                let read_pool = pool(READERS).connect_with(options.read_only(false)).await?;
                let writer = Writer::sqlite(write_pool.clone());
                Self::Sqlite(Sqlite {
                    read_pool,
                    write_pool,
                    groups: Groups::start(&writer),
                    writer,
                })
            }
            Settings::Postgres(address) => {
                let options: PgConnectOptions = address
                    .parse()
                    .map_err(|e: sqlx::Error| StoreError::Unavailable(e.to_string()))?;
                let limit = |time: Duration| time.as_millis().to_string();
                // A leader that is stuck must not keep another from taking over.
                let options = options.options([
                    ("idle_in_transaction_session_timeout", limit(WAIT)),
                    ("lock_timeout", limit(WAIT)),
                ]);
                let pool = PgPoolOptions::new()
                    .max_connections(READERS + 2)
                    .acquire_timeout(WAIT)
                    // One that was used a moment ago need not be asked whether it is still there: that
                    // doubles the round trips of every read.
                    .test_before_acquire(false)
                    .before_acquire(|connection, meta| {
                        Box::pin(async move {
                            if meta.idle_for > FRESH {
                                sqlx::Connection::ping(connection).await?;
                            }
                            Ok(true)
                        })
                    })
                    .connect_with(options)
                    .await?;
                let writer = Writer::postgres(pool.clone());
                Self::Postgres(Postgres {
                    lookups: Lookups::start(&pool),
                    pool,
                    groups: Groups::start(&writer),
                    writer,
                })
            }
        };
        db.migrate().await?;
        Ok(db)
    }

    /// The engine's name, for people.
    #[must_use]
    pub fn engine(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }

    pub(crate) fn writer(&self) -> &Writer {
        match self {
            Self::Sqlite(db) => &db.writer,
            Self::Postgres(db) => &db.writer,
        }
    }

    pub(crate) fn groups(&self) -> &Groups {
        match self {
            Self::Sqlite(db) => &db.groups,
            Self::Postgres(db) => &db.groups,
        }
    }

    pub(crate) async fn rows<T: Rows>(
        &self,
        statement: &'static str,
        args: Vec<Arg>,
    ) -> Result<Vec<T>, StoreError> {
        Ok(match self {
            Self::Sqlite(db) => {
                sqlx::query_as_with(statement, sql::sqlite(args)?)
                    .fetch_all(&db.read_pool)
                    .await?
            }
            Self::Postgres(db) => {
                sqlx::query_as_with(statement, sql::postgres(args)?)
                    .fetch_all(&db.pool)
                    .await?
            }
        })
    }

    pub(crate) async fn row<T: Rows>(
        &self,
        statement: &'static str,
        args: Vec<Arg>,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.rows(statement, args).await?.into_iter().next())
    }

    /// One statement on its own, beside the queue of writes: it must not wait behind them.
    pub(crate) async fn alone(
        &self,
        statement: &'static str,
        args: Vec<Arg>,
    ) -> Result<u64, StoreError> {
        Ok(match self {
            Self::Sqlite(db) => sqlx::query_with(statement, sql::sqlite(args)?)
                .execute(&db.read_pool)
                .await?
                .rows_affected(),
            Self::Postgres(db) => sqlx::query_with(statement, sql::postgres(args)?)
                .execute(&db.pool)
                .await?
                .rows_affected(),
        })
    }

    /// Closes every connection; queued writes are answered first.
    pub async fn close(&self) {
        self.writer().close().await;
        match self {
            Self::Sqlite(db) => {
                db.read_pool.close().await;
                db.write_pool.close().await;
            }
            Self::Postgres(db) => db.pool.close().await,
        }
    }
}
