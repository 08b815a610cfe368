//! Places where services are deployed, and the services themselves: registered rows. A place is
//! found by its immutable id; its name is for people.

use slipway_core::time::Timestamp;

use crate::db::Db;
use crate::error::StoreError;
use crate::sql::{args, sql};

/// A registered environment.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct EnvironmentRow {
    /// Immutable.
    pub environment_id: String,
    /// Unique.
    pub name: String,
    /// Which target serves it, and its addresses; JSON.
    pub target: String,
    /// Server-side policy, JSON.
    pub policy: String,
    /// When registered.
    pub created_at: i64,
}

/// A deployed service.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ServiceRow {
    /// Immutable.
    pub service_id: String,
    /// The repository that it comes from.
    pub repo_id: String,
    /// Unique.
    pub name: String,
    /// When first deployed.
    pub created_at: i64,
}

impl Db {
    /// Registers an environment, or changes the target and policy of the one with this name. `id` is
    /// used only when it is new.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn ensure_environment(
        &self,
        id: &str,
        name: &str,
        target: &str,
        policy: &str,
        now: Timestamp,
    ) -> Result<EnvironmentRow, StoreError> {
        let put = args![id, name, target, policy, now];
        let name = name.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                tx.execute(sql!("environments/put"), put).await?;
                let row = tx.row(sql!("environments/by_name"), args![name]).await?;
                row.ok_or(StoreError::NotFound("environment"))
            })
        })
        .await
    }

    /// Every environment, by name.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn environments(&self) -> Result<Vec<EnvironmentRow>, StoreError> {
        self.rows(sql!("environments/list"), args![]).await
    }

    /// The environment with this id.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn environment(&self, id: &str) -> Result<Option<EnvironmentRow>, StoreError> {
        self.row(sql!("environments/get"), args![id]).await
    }

    /// The environment with this name.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn environment_by_name(
        &self,
        name: &str,
    ) -> Result<Option<EnvironmentRow>, StoreError> {
        self.row(sql!("environments/by_name"), args![name]).await
    }

    /// The service with this name, registered now when it is new (`id` is used only then).
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn ensure_service(
        &self,
        id: &str,
        repo_id: &str,
        name: &str,
        now: Timestamp,
    ) -> Result<ServiceRow, StoreError> {
        let put = args![id, repo_id, name, now];
        let name = name.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                tx.execute(sql!("services/put"), put).await?;
                let row = tx.row(sql!("services/by_name"), args![name]).await?;
                row.ok_or(StoreError::NotFound("service"))
            })
        })
        .await
    }

    /// Every service, by name.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn services(&self) -> Result<Vec<ServiceRow>, StoreError> {
        self.rows(sql!("services/list"), args![]).await
    }
}
