//! Who belongs to this installation: its authority, and the processes that joined it.

use slipway_core::access::PeerRole;
use slipway_core::time::Timestamp;

use crate::agents::{JoinOutcome, NewPeer};
use crate::db::Db;
use crate::error::StoreError;
use crate::sql::{args, sql};
use crate::writer::Tx;

/// The installation's authority as stored.
#[derive(Clone, sqlx::FromRow)]
pub struct AuthorityRow {
    /// X.509, DER.
    pub certificate: Vec<u8>,
    /// PKCS #8, sealed.
    pub sealed_key: Vec<u8>,
}

/// A process that may call.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct PeerRow {
    /// Its id.
    pub peer_id: String,
    /// `agent`, `cache` or `deployer`.
    pub role: String,
}

#[derive(sqlx::FromRow)]
struct Redeemed {
    labels: String,
    role: String,
}

#[derive(sqlx::FromRow)]
struct Token {
    uses_left: i64,
}

impl Db {
    /// The authority; `None` before the first start.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn authority(&self) -> Result<Option<AuthorityRow>, StoreError> {
        self.row(sql!("authorities/get"), args![]).await
    }

    /// Stores the authority, unless somebody else did at the same moment: read it again afterwards.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn insert_authority(
        &self,
        row: AuthorityRow,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let args = args![row.certificate, row.sealed_key, now];
                tx.execute(sql!("authorities/insert"), args)
                    .await
                    .map(|_| ())
            })
        })
        .await
    }

    /// Redeems a join token and registers the process, in one compare-and-set.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn join(&self, token_hash: &str, peer: NewPeer) -> Result<JoinOutcome, StoreError> {
        let hash = token_hash.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let args = args![&hash, peer.created];
                let redeemed: Option<Redeemed> = tx.row(sql!("join_tokens/redeem"), args).await?;
                let Some(Redeemed { labels, role }) = redeemed else {
                    let known: Option<Token> =
                        tx.row(sql!("join_tokens/get"), args![&hash]).await?;
                    return Ok(match known {
                        None => JoinOutcome::Unknown,
                        Some(token) if token.uses_left <= 0 => JoinOutcome::Used,
                        Some(_) => JoinOutcome::Expired,
                    });
                };
                let id = peer.id.as_str();
                let args = args![id, &role, &peer.name, peer.created];
                tx.execute(sql!("peers/insert"), args).await?;
                let role: PeerRole = role
                    .parse()
                    .map_err(|e| StoreError::Corrupt(format!("join_tokens.role: {e}")))?;
                if role == PeerRole::Agent {
                    let args = args![id, &peer.name, &labels, peer.created];
                    tx.execute(sql!("agents/insert"), args).await?;
                }
                Ok(JoinOutcome::Joined(role))
            })
        })
        .await
    }

    /// Whether a process may call: it joined, and was not revoked.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn peer_is_good(&self, role: PeerRole, id: &str) -> Result<bool, StoreError> {
        let found: Option<PeerRow> = self.row(sql!("peers/good"), args![id, role.word()]).await?;
        Ok(found.is_some())
    }

    /// Every process that may call.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn good_peers(&self) -> Result<Vec<PeerRow>, StoreError> {
        self.rows(sql!("peers/all_good"), args![]).await
    }

    /// Revokes a process for good; an agent is `gone` with it. False when it was already.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn revoke_peer(
        &self,
        id: &str,
        reason: String,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.write(move |tx| Box::pin(async move { revoke(tx, &id, &reason, now).await }))
            .await
    }
}

/// Ends a process for good, in a transaction of whoever has a reason.
pub(crate) async fn revoke(
    tx: &mut Tx,
    id: &str,
    reason: &str,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let revoked = tx.execute(sql!("peers/revoke"), args![id, now]).await?;
    // Only an agent has a row there.
    let args = args![id, "gone", Some(reason)];
    tx.execute(sql!("agents/set_state"), args).await?;
    Ok(revoked == 1)
}
