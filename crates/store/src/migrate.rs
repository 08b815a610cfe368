//! Brings a database to the present schema. The two folders hold the same numbers; a released file is
//! never edited.

use sqlx::migrate::Migrator;

use crate::db::Db;
use crate::error::StoreError;

static SQLITE: Migrator = sqlx::migrate!("../../migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("../../migrations/postgres");

impl Db {
    /// Applies what is missing. Safe to call from several processes at once (PostgreSQL locks).
    ///
    /// # Errors
    /// When the database is away, or was migrated by a newer or altered set of files.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let result = match self {
            Self::Sqlite(db) => SQLITE.run(&db.write_pool).await,
            Self::Postgres(db) => POSTGRES.run(&db.pool).await,
        };
        result.map_err(|e| StoreError::Unavailable(format!("migration failed: {e}")))
    }
}
