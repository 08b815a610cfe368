//! The lock of a service in an environment, and whoever waits for it.

use slipway_core::rollout::{Held, LOCK_TTL, LockAnswer, WAIT_LIMIT, Waiter, ask};
use slipway_core::time::Timestamp;

use crate::db::Db;
use crate::error::StoreError;
use crate::rollouts::{Number, RolloutRow, next_token, unsigned};
use crate::sql::{args, sql};
use crate::writer::Tx;

/// The lock as stored.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0006_create_deployments.sql"
)]
pub struct LockRow {
    pub holder: String,
    pub token: i64,
    pub acquired_at: i64,
    pub heartbeat_at: i64,
    pub expires_at: i64,
}

#[derive(sqlx::FromRow)]
struct WaiterRow {
    deployment_id: String,
    enqueued_at: i64,
    head: i64,
}

impl Db {
    /// Asks for the lock on behalf of a deployment. When it is granted, the deployment's row carries
    /// the new token and a new row version.
    ///
    /// # Errors
    /// `Conflict` when the row changed since it was read; otherwise when it cannot be made durable.
    pub async fn ask_lock(
        &self,
        row: &RolloutRow,
        now: Timestamp,
    ) -> Result<LockAnswer, StoreError> {
        let row = row.clone();
        self.write(move |tx| Box::pin(async move { ask_in(tx, &row, now).await }))
            .await
    }

    /// The lock of a place.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn lock(
        &self,
        service_id: &str,
        environment_id: &str,
    ) -> Result<Option<LockRow>, StoreError> {
        self.row(sql!("deploy_locks/get"), args![service_id, environment_id])
            .await
    }

    /// Whoever waits for a place, in the order in which they get it.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn lock_waiters(
        &self,
        service_id: &str,
        environment_id: &str,
    ) -> Result<Vec<Waiter>, StoreError> {
        let args = args![service_id, environment_id];
        let rows: Vec<WaiterRow> = self.rows(sql!("lock_waiters/list"), args).await?;
        let mut waiters: Vec<Waiter> = rows.into_iter().map(waiter).collect();
        waiters.sort_by_key(|w| (!w.head, w.enqueued_at, w.deployment.clone()));
        Ok(waiters)
    }

    /// A fence (token, generation) for a change that belongs to no rollout: the same traffic, with
    /// instances at new addresses. `None` while a rollout holds the place.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn quiet_fence(
        &self,
        service_id: &str,
        environment_id: &str,
    ) -> Result<Option<(u64, u64)>, StoreError> {
        let (service_id, environment_id) = (service_id.to_owned(), environment_id.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let place = || args![&service_id, &environment_id];
                tx.execute(sql!("deploy_tokens/touch"), place()).await?;
                let held: Option<LockRow> = tx.row(sql!("deploy_locks/get"), place()).await?;
                if held.is_some() {
                    return Ok(None);
                }
                let token = next_token(tx, &service_id, &environment_id, 0).await?;
                let next = args![&service_id, &environment_id, token];
                let generation = tx.row(sql!("deploy_tokens/next_gen"), next).await?;
                let generation = required(generation, "deploy token")?;
                Ok(Some((unsigned(token), unsigned(generation))))
            })
        })
        .await
    }

    /// Keeps the locks of everything that `owner` still owns; answers how many.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn heartbeat_locks(&self, owner: &str, now: Timestamp) -> Result<u64, StoreError> {
        let args = args![owner, now, now.after(LOCK_TTL)];
        self.write(move |tx| {
            Box::pin(async move {
                tx.execute(sql!("deploy_locks/release_ended"), args![])
                    .await?;
                tx.execute(sql!("deploy_locks/heartbeat"), args).await
            })
        })
        .await
    }
}

fn waiter(row: WaiterRow) -> Waiter {
    Waiter {
        deployment: row.deployment_id,
        head: row.head == 1,
        enqueued_at: Timestamp::from_millis(row.enqueued_at),
    }
}

async fn ask_in(tx: &mut Tx, row: &RolloutRow, now: Timestamp) -> Result<LockAnswer, StoreError> {
    let place = || args![&row.service_id, &row.environment_id];
    // Serialises everybody who asks for this place: the row of its tokens is locked first.
    tx.execute(sql!("deploy_tokens/touch"), place()).await?;
    let held: Option<LockRow> = tx.row(sql!("deploy_locks/get"), place()).await?;
    let held = held.map(|lock| Held {
        holder: lock.holder,
        token: unsigned(lock.token),
        expires_at: Timestamp::from_millis(lock.expires_at),
    });
    let head = row.kind == "rollback";
    let enqueue = args![
        &row.service_id,
        &row.environment_id,
        &row.deployment_id,
        now,
        now.after(WAIT_LIMIT),
        head
    ];
    tx.execute(sql!("lock_waiters/put"), enqueue).await?;
    let waiters: Vec<WaiterRow> = tx.rows(sql!("lock_waiters/list"), place()).await?;
    let waiters: Vec<Waiter> = waiters.into_iter().map(waiter).collect();
    let answer = ask(held.as_ref(), &waiters, &row.deployment_id, now);
    if answer == LockAnswer::Granted {
        let token = next_token(tx, &row.service_id, &row.environment_id, row.token).await?;
        let insert = args![
            &row.service_id,
            &row.environment_id,
            &row.deployment_id,
            token,
            now,
            now.after(LOCK_TTL)
        ];
        tx.execute(sql!("deploy_locks/insert"), insert).await?;
        let set = args![&row.deployment_id, token, row.row_version];
        if tx.execute(sql!("deployments/set_token"), set).await? != 1 {
            return Err(StoreError::Conflict(
                "the deployment changed meanwhile".to_owned(),
            ));
        }
        tx.execute(sql!("lock_waiters/remove"), args![&row.deployment_id])
            .await?;
    }
    Ok(answer)
}

/// The number that a statement returned.
pub(crate) fn required(number: Option<Number>, what: &'static str) -> Result<i64, StoreError> {
    number
        .map(|number| number.value)
        .ok_or(StoreError::NotFound(what))
}
