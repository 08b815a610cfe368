//! Brings a database to the present schema. The two folders hold the same numbers; a released file is
//! never edited.

use sqlx::migrate::Migrator;
use sqlx::postgres::PgPoolOptions;

use crate::db::Db;
use crate::error::StoreError;

pub(crate) static SQLITE: Migrator = sqlx::migrate!("../../migrations/sqlite");
pub(crate) static POSTGRES: Migrator = sqlx::migrate!("../../migrations/postgres");

impl Db {
    /// Applies what is missing. Safe to call from several processes at once (PostgreSQL locks).
    ///
    /// # Errors
    /// When the database is away, or was migrated by a newer or altered set of files.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let result = match self {
            Self::Sqlite(db) => SQLITE.run(&db.write_pool).await,
            Self::Postgres(db) => {
                // Another process may be at it, for longer than a statement usually waits.
                let options = db.pool.connect_options().as_ref().clone();
                let patient = PgPoolOptions::new()
                    .max_connections(1)
                    .connect_with(options.options([("lock_timeout", "0")]))
                    .await?;
                let migrated = POSTGRES.run(&patient).await;
                patient.close().await;
                migrated
            }
        };
        result.map_err(|e| StoreError::Unavailable(format!("migration failed: {e}")))
    }
}
