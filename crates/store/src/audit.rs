//! The audit log: append only, each row hashed over the one before.

use sha2::{Digest as _, Sha256};
use slipway_core::time::Timestamp;

use crate::db::Db;
use crate::error::StoreError;
use crate::sql::{args, sql};
use crate::writer::Tx;

/// What somebody did.
#[derive(Clone, Debug, serde::Serialize)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// token | agent | system.
    pub actor_type: String,
    /// Who.
    pub actor_id: String,
    /// From where.
    pub address: String,
    /// Verb, e.g. `deployment.approve`.
    pub action: String,
    /// Of what kind the object is.
    pub object_type: String,
    /// Which object.
    pub object_id: String,
    /// Facts, never values of secrets.
    pub detail: serde_json::Value,
}

/// A row of the audit log.
#[derive(Clone, Debug, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0005_create_access.sql"
)]
pub struct AuditRow {
    pub seq: i64,
    pub at: i64,
    pub actor_type: String,
    pub actor_id: String,
    pub address: String,
    pub action: String,
    pub object_type: String,
    pub object_id: String,
    pub detail: String,
    pub prev_hash: String,
    pub hash: String,
}

#[derive(sqlx::FromRow)]
struct Head {
    seq: i64,
    hash: String,
}

impl AuditEntry {
    /// Appends to the log, in the transaction of the change itself.
    ///
    /// # Errors
    /// When the log cannot be written: the change must not happen then.
    pub async fn append(&self, tx: &mut Tx) -> Result<(), StoreError> {
        let head: Option<Head> = tx.row(sql!("audit/head"), args![]).await?;
        let Head { seq, hash: prev } = head.ok_or(StoreError::NotFound("audit head"))?;
        let detail = self.detail.to_string();
        let hash = row_hash(seq, &prev, self, &detail);
        let args = args![
            seq,
            self.at,
            &self.actor_type,
            &self.actor_id,
            &self.address,
            &self.action,
            &self.object_type,
            &self.object_id,
            detail,
            prev,
            &hash
        ];
        tx.execute(sql!("audit/insert"), args).await?;
        tx.execute(sql!("audit/set_head"), args![hash])
            .await
            .map(|_| ())
    }
}

fn row_hash(seq: i64, prev: &str, entry: &AuditEntry, detail: &str) -> String {
    let mut hasher = Sha256::new();
    let at = entry.at.as_millis().to_string();
    let seq = seq.to_string();
    for field in [
        seq.as_str(),
        prev,
        &at,
        &entry.actor_type,
        &entry.actor_id,
        &entry.address,
        &entry.action,
        &entry.object_type,
        &entry.object_id,
        detail,
    ] {
        // Length first, so that no two rows share a preimage by shifting a boundary.
        hasher.update((field.len() as u64).to_le_bytes());
        hasher.update(field.as_bytes());
    }
    hex::encode(hasher.finalize())
}

impl Db {
    /// Appends one entry that belongs to no other change.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn audit(&self, entry: AuditEntry) -> Result<(), StoreError> {
        self.write(move |tx| Box::pin(async move { entry.append(tx).await }))
            .await
    }

    /// Rows after `seq`, oldest first.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn audit_log(&self, after: i64, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        self.rows(sql!("audit/list"), args![after, limit]).await
    }

    /// Walks the whole chain; `Some(seq)` is the first row that does not fit.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn verify_audit(&self) -> Result<Option<i64>, StoreError> {
        let (mut after, mut prev) = (0, String::new());
        loop {
            let rows = self.audit_log(after, 1_000).await?;
            let Some(last) = rows.last() else {
                // The newest rows may have been cut off: the head remembers them.
                let head: Option<Head> = self.row(sql!("audit/peek_head"), args![]).await?;
                let whole = head.is_some_and(|head| head.seq == after && head.hash == prev);
                return Ok((!whole).then_some(after + 1));
            };
            let next = last.seq;
            for row in rows {
                let entry = AuditEntry {
                    at: Timestamp::from_millis(row.at),
                    actor_type: row.actor_type,
                    actor_id: row.actor_id,
                    address: row.address,
                    action: row.action,
                    object_type: row.object_type,
                    object_id: row.object_id,
                    detail: serde_json::Value::Null,
                };
                let good = row.seq == after + 1
                    && row.prev_hash == prev
                    && row.hash == row_hash(row.seq, &prev, &entry, &row.detail);
                if !good {
                    return Ok(Some(row.seq));
                }
                after = row.seq;
                prev = row.hash;
            }
            after = next;
        }
    }
}
