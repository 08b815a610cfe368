//! Versions of services in environments: which one was proven good last, and which one goes when.

use slipway_core::time::Timestamp;

use crate::db::Db;
use crate::error::StoreError;
use crate::sql::{args, sql};

/// A version as stored.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0006_create_deployments.sql"
)]
pub struct VersionRow {
    pub version_id: String,
    pub service_id: String,
    pub environment_id: String,
    pub image: String,
    pub digest: String,
    pub config_hash: String,
    pub config_json: String,
    pub build_id: String,
    pub state: String,
    pub last_good_at: Option<i64>,
    pub retire_at: Option<i64>,
    pub pinned: i64,
    pub created_at: i64,
}

impl Db {
    /// One version.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn version(&self, id: &str) -> Result<Option<VersionRow>, StoreError> {
        self.row(sql!("versions/get"), args![id]).await
    }

    /// The versions of a service in an environment; the one proven good last comes first.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn versions(
        &self,
        service_id: &str,
        environment_id: &str,
    ) -> Result<Vec<VersionRow>, StoreError> {
        self.rows(sql!("versions/of_place"), args![service_id, environment_id])
            .await
    }

    /// Versions whose time is over, at places where no rollout is under way.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn versions_to_retire(&self, now: Timestamp) -> Result<Vec<VersionRow>, StoreError> {
        self.rows(sql!("versions/due"), args![now]).await
    }

    /// Writes down that what is left of a version is being removed: its time is over, or it is gone by its row.
    /// False when a rollout took the place meanwhile. From here on a rollback to it finishes the removal and
    /// starts it again.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn begin_retirement(
        &self,
        version: &VersionRow,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let place = args![&version.service_id, &version.environment_id];
        let args = args![&version.version_id, now];
        self.write(move |tx| {
            Box::pin(async move {
                // Whoever asks for the place's lock takes its turn here: one of the two sees the other.
                tx.execute(sql!("deploy_tokens/touch"), place).await?;
                Ok(tx.execute(sql!("versions/begin_retire"), args).await? == 1)
            })
        })
        .await
    }

    /// A version that was being removed, or was gone, is wanted again: whoever removed it leaves the row alone.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn revive_version(&self, id: &str) -> Result<(), StoreError> {
        let args = args![id];
        self.write(move |tx| {
            Box::pin(async move { tx.execute(sql!("versions/revive"), args).await.map(|_| ()) })
        })
        .await
    }

    /// Writes down that no instance of a version is left, unless it is wanted again.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn version_is_gone(&self, id: &str) -> Result<(), StoreError> {
        let args = args![id];
        self.write(move |tx| {
            Box::pin(async move { tx.execute(sql!("versions/gone"), args).await.map(|_| ()) })
        })
        .await
    }
}
