//! Telling the other dispatchers of one database that something changed (PostgreSQL LISTEN/NOTIFY). A
//! lost announcement costs a slow tick, nothing else. On SQLite there is nobody to tell.

use sqlx::postgres::PgListener;

use crate::db::Db;
use crate::error::StoreError;
use crate::sql::sql;

const CHANNEL: &str = "slipway";
/// PostgreSQL takes less than 8,000 bytes.
pub const ANNOUNCEMENT_MAX: usize = 7_900;

/// What the others announce.
pub struct Announcements(PgListener);

impl Announcements {
    /// The next one; waits for it.
    ///
    /// # Errors
    /// When the connection broke: what was announced meanwhile is lost.
    pub async fn next(&mut self) -> Result<String, StoreError> {
        Ok(self.0.recv().await?.payload().to_owned())
    }
}

impl Db {
    /// Listens; `None` where nobody can announce anything.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn listen(&self) -> Result<Option<Announcements>, StoreError> {
        let Self::Postgres(db) = self else {
            return Ok(None);
        };
        let mut listener = PgListener::connect_with(&db.pool).await?;
        listener.listen(CHANNEL).await?;
        Ok(Some(Announcements(listener)))
    }

    /// Announces something to every listener, this process included.
    ///
    /// # Errors
    /// When the database is away, or the text is longer than [`ANNOUNCEMENT_MAX`].
    pub async fn announce(&self, text: &str) -> Result<(), StoreError> {
        let Self::Postgres(db) = self else {
            return Ok(());
        };
        sqlx::query(sql!("announcements/notify.postgres"))
            .bind(CHANNEL)
            .bind(text)
            .execute(&db.pool)
            .await?;
        Ok(())
    }
}
