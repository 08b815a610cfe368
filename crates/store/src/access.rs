//! API tokens, and answers kept for repeated requests.

use slipway_core::id::TokenId;
use slipway_core::time::Timestamp;

use crate::db::Db;
use crate::error::StoreError;
use crate::sql::{args, sql};

/// An API token as stored; the secret half is a hash.
#[derive(Clone, Debug, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0005_create_access.sql"
)]
pub struct TokenRow {
    pub token_id: String,
    pub subject: String,
    pub roles: String,
    pub created_at: i64,
    pub expires_ms: i64,
    pub last_used_ms: Option<i64>,
    pub revoked_ms: Option<i64>,
}

/// What is known of an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdempotencyClaim {
    /// First use: go on, then keep the answer.
    Fresh,
    /// The same key with another request.
    OtherRequest,
    /// The first request is still under way.
    InFlight,
    /// The kept answer: status, body, location.
    Answered(u16, String, Option<String>),
}

#[derive(sqlx::FromRow)]
struct Kept {
    request_hash: String,
    status: Option<i64>,
    answer: Option<String>,
    location: Option<String>,
}

impl Db {
    /// Stores a token (its hash).
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn insert_token(
        &self,
        id: &TokenId,
        subject: &str,
        hash: &str,
        roles: &str,
        now: Timestamp,
        expires: Timestamp,
    ) -> Result<(), StoreError> {
        let args = args![id.as_str(), subject, hash, roles, now, expires];
        self.write(move |tx| {
            Box::pin(async move {
                tx.execute(sql!("api_tokens/insert"), args)
                    .await
                    .map(|_| ())
            })
        })
        .await
    }

    /// The token with this hash, revoked and expired ones too.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn token_by_hash(&self, hash: &str) -> Result<Option<TokenRow>, StoreError> {
        self.row(sql!("api_tokens/by_hash"), args![hash]).await
    }

    /// Every token.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, StoreError> {
        self.rows(sql!("api_tokens/list"), args![]).await
    }

    /// Revokes a token; false when there is none or it was revoked before.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn revoke_token(&self, id: &TokenId, now: Timestamp) -> Result<bool, StoreError> {
        let args = args![id.as_str(), now];
        self.write(move |tx| {
            Box::pin(async move { Ok(tx.execute(sql!("api_tokens/revoke"), args).await? == 1) })
        })
        .await
    }

    /// Claims an idempotency key.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn claim_idempotency(
        &self,
        caller: &str,
        key: &str,
        request_hash: &str,
        now: Timestamp,
    ) -> Result<IdempotencyClaim, StoreError> {
        let (caller, key) = (caller.to_owned(), key.to_owned());
        let request_hash = request_hash.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let args = args![&caller, &key, &request_hash, now];
                if tx.execute(sql!("idempotency_keys/claim"), args).await? == 1 {
                    return Ok(IdempotencyClaim::Fresh);
                }
                let kept: Option<Kept> = tx
                    .row(sql!("idempotency_keys/get"), args![caller, key])
                    .await?;
                let kept = kept.ok_or(StoreError::NotFound("idempotency key"))?;
                if kept.request_hash != request_hash {
                    return Ok(IdempotencyClaim::OtherRequest);
                }
                Ok(match kept.status {
                    None => IdempotencyClaim::InFlight,
                    Some(status) => IdempotencyClaim::Answered(
                        u16::try_from(status).unwrap_or(500),
                        kept.answer.unwrap_or_default(),
                        kept.location,
                    ),
                })
            })
        })
        .await
    }

    /// Keeps the answer of a claimed key; `None` releases the key after a failure.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn settle_idempotency(
        &self,
        caller: &str,
        key: &str,
        answer: Option<(u16, String, Option<String>)>,
    ) -> Result<(), StoreError> {
        let (caller, key) = (caller.to_owned(), key.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                match answer {
                    Some((status, body, location)) => {
                        let args = args![caller, key, i64::from(status), body, location];
                        tx.execute(sql!("idempotency_keys/answer"), args).await?
                    }
                    None => {
                        tx.execute(sql!("idempotency_keys/release"), args![caller, key])
                            .await?
                    }
                };
                Ok(())
            })
        })
        .await
    }

    /// Forgets keys older than `before`.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn expire_idempotency(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                tx.execute(sql!("idempotency_keys/expire"), args![before])
                    .await
            })
        })
        .await
    }
}
