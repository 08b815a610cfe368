//! The inbox: an authentic webhook delivery is a committed row before it is answered.

use futures::future::BoxFuture;
use slipway_core::id::{BuildId, DeliveryId, HookId, RepoId};
use slipway_core::time::Timestamp;

use crate::db::Db;
use crate::error::StoreError;
use crate::sql::{args, sql};
use crate::writer::Tx;

/// A delivery to be recorded.
#[derive(Clone, Debug)]
pub struct NewDelivery {
    /// Our id.
    pub id: DeliveryId,
    /// Which endpoint received it.
    pub hook_id: HookId,
    /// The host's id of this delivery.
    pub delivery_id: String,
    /// The host's word for the event.
    pub event: String,
    /// SHA-256 of the body, hex.
    pub body_digest: String,
    /// The headers worth keeping, JSON.
    pub headers: String,
    /// The bytes as received.
    pub body: Vec<u8>,
    /// When.
    pub received: Timestamp,
}

/// What became of a delivery that was to be recorded.
#[derive(Clone, Debug)]
pub enum Recorded {
    /// A new row, pending.
    New,
    /// Known, with the same body: the first one, with its decision if there is one.
    Duplicate(Box<Delivery>),
    /// Known under another body: kept apart for a person, the first one untouched.
    Collision(Box<Delivery>),
}

/// A row of the inbox.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Delivery {
    /// Our id.
    pub id: String,
    /// Which endpoint received it.
    pub hook_id: String,
    /// The host's id of this delivery.
    pub delivery_id: String,
    /// The host's word for the event.
    pub event: String,
    /// SHA-256 of the body, hex.
    pub body_digest: String,
    /// The headers worth keeping, JSON.
    pub headers: String,
    /// The bytes as received.
    pub body: Vec<u8>,
    /// When it came, epoch milliseconds.
    pub received_ms: i64,
    /// `pending`, or the final decision.
    pub state: String,
    /// Why it was decided so.
    pub decision: Option<String>,
    /// The build it led to.
    pub build_id: Option<String>,
    /// How often working on it was tried.
    pub tries: i64,
}

#[derive(sqlx::FromRow)]
struct Number {
    number: i64,
}

impl Db {
    /// Records a delivery, once per (hook, host's delivery id).
    ///
    /// # Errors
    /// `Unavailable` when it cannot be made durable: the host must be told 503.
    pub async fn record_delivery(&self, new: NewDelivery) -> Result<Recorded, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let (hook, host_id) = (new.hook_id.to_string(), new.delivery_id.clone());
                let inserted = tx
                    .execute(
                        sql!("inbox/insert"),
                        args![
                            new.id.as_str(),
                            &hook,
                            &host_id,
                            &new.event,
                            &new.body_digest,
                            &new.headers,
                            new.body.clone(),
                            new.received,
                            "pending"
                        ],
                    )
                    .await?;
                if inserted == 1 {
                    return Ok(Recorded::New);
                }
                let first: Delivery = tx
                    .row(sql!("inbox/find"), args![hook, host_id])
                    .await?
                    .ok_or(StoreError::NotFound("delivery"))?;
                if first.body_digest == new.body_digest {
                    return Ok(Recorded::Duplicate(Box::new(first)));
                }
                let args = args![
                    new.id.as_str(),
                    &first.id,
                    new.body_digest,
                    new.body,
                    new.received
                ];
                tx.execute(sql!("inbox/insert_collision"), args).await?;
                Ok(Recorded::Collision(Box::new(first)))
            })
        })
        .await
    }

    /// Deliveries without a decision, oldest first.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn pending_deliveries(&self, limit: u32) -> Result<Vec<Delivery>, StoreError> {
        self.rows(sql!("inbox/pending"), args![limit]).await
    }

    /// One delivery.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn delivery(&self, id: &DeliveryId) -> Result<Option<Delivery>, StoreError> {
        self.row(sql!("inbox/get"), args![id.as_str()]).await
    }

    /// The newest deliveries of a hook.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn deliveries(&self, hook: &HookId, limit: u32) -> Result<Vec<Delivery>, StoreError> {
        self.rows(sql!("inbox/list"), args![hook.as_str(), limit])
            .await
    }

    /// Writes the final decision about a pending delivery; false when it has one already.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn decide_delivery(
        &self,
        id: &DeliveryId,
        state: &'static str,
        decision: &str,
        build: Option<&BuildId>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (id, decision) = (id.to_string(), decision.to_owned());
        let build = build.map(ToString::to_string);
        self.write(move |tx| {
            Box::pin(async move {
                let args = args![id, state, decision, build, now];
                Ok(tx.execute(sql!("inbox/decide"), args).await? == 1)
            })
        })
        .await
    }

    /// Counts one try at a pending delivery, before it is worked on: an input that ends the process
    /// is found by its tries.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn count_delivery_try(&self, id: &DeliveryId) -> Result<(), StoreError> {
        self.groups().tries.submit(id.to_string()).await
    }

    /// Puts a quarantined or ignored delivery back to pending (after an upgrade, or by hand).
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn reopen_delivery(&self, id: &DeliveryId) -> Result<bool, StoreError> {
        let id = id.to_string();
        self.write(move |tx| {
            Box::pin(async move { Ok(tx.execute(sql!("inbox/reopen"), args![id]).await? == 1) })
        })
        .await
    }

    /// How many deliveries of a repository wait for a decision.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn undecided_deliveries(&self, repo: &RepoId) -> Result<i64, StoreError> {
        let row: Option<Number> = self
            .row(sql!("inbox/undecided"), args![repo.as_str()])
            .await?;
        Ok(row.map_or(0, |r| r.number))
    }
}

/// Counts a try at each of these.
pub(crate) fn count_together(
    tx: &mut Tx,
    ids: Vec<String>,
) -> BoxFuture<'_, Result<Vec<()>, StoreError>> {
    Box::pin(async move {
        let answers = vec![(); ids.len()];
        if matches!(tx, Tx::Postgres(_)) && ids.len() > 1 {
            let ids = serde_json::json!(ids).to_string();
            tx.execute(sql!("inbox/count_tries.postgres"), args![ids])
                .await?;
            return Ok(answers);
        }
        for id in ids {
            tx.execute(sql!("inbox/count_try"), args![id]).await?;
        }
        Ok(answers)
    })
}
