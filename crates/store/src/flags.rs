//! Feature flags as stored; what they mean to a subject is core's.

use slipway_core::id::FlagId;
use slipway_core::time::Timestamp;

use crate::db::Db;
use crate::error::StoreError;
use crate::sql::{args, sql};

/// A flag.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct FlagRow {
    /// Its id.
    pub flag_id: String,
    /// Unique name.
    pub name: String,
    /// 1 = on for whoever the rollout reaches.
    pub enabled: i64,
    /// Of 100 000.
    pub rollout_percentage: i64,
    /// JSON array of subject keys that are always in.
    pub target_users: String,
    /// When made.
    pub created_at: i64,
    /// When last changed.
    pub updated_at: i64,
}

impl Db {
    /// Adds a flag.
    ///
    /// # Errors
    /// `Conflict` when the name is taken.
    pub async fn insert_flag(&self, flag: FlagRow) -> Result<(), StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let args = args![
                    flag.flag_id,
                    flag.name,
                    flag.enabled,
                    flag.rollout_percentage,
                    flag.target_users,
                    flag.created_at
                ];
                tx.execute(sql!("feature_flags/insert"), args)
                    .await
                    .map(|_| ())
            })
        })
        .await
    }

    /// One flag.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn flag(&self, id: &FlagId) -> Result<Option<FlagRow>, StoreError> {
        self.row(sql!("feature_flags/get"), args![id.as_str()])
            .await
    }

    /// Flags by name.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn flags(&self, limit: u32) -> Result<Vec<FlagRow>, StoreError> {
        self.rows(sql!("feature_flags/list"), args![limit]).await
    }

    /// Removes a flag; false when there is none.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn delete_flag(&self, id: &FlagId) -> Result<bool, StoreError> {
        let id = id.to_string();
        self.write(move |tx| {
            Box::pin(
                async move { Ok(tx.execute(sql!("feature_flags/delete"), args![id]).await? == 1) },
            )
        })
        .await
    }

    /// Changes a flag; false when there is none.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn update_flag(&self, flag: FlagRow, now: Timestamp) -> Result<bool, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let args = args![
                    flag.flag_id,
                    flag.enabled,
                    flag.rollout_percentage,
                    flag.target_users,
                    now
                ];
                Ok(tx.execute(sql!("feature_flags/update"), args).await? == 1)
            })
        })
        .await
    }
}
