//! Agents and join tokens.

use slipway_core::access::PeerRole;
use slipway_core::id::AgentId;
use slipway_core::time::Timestamp;

use crate::db::Db;
use crate::error::StoreError;
use crate::sql::{args, sql};

/// A process to be registered.
#[derive(Clone, Debug)]
pub struct NewPeer {
    /// Its id.
    pub id: String,
    /// Display name; gates nothing.
    pub name: String,
    /// Now.
    pub created: Timestamp,
}

/// What became of a redemption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinOutcome {
    /// Registered, as what the token says.
    Joined(PeerRole),
    /// No such token.
    Unknown,
    /// Every use was redeemed.
    Used,
    /// Too late.
    Expired,
}

/// An agent as stored.
#[derive(Clone, Debug, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0004_create_agents.sql"
)]
pub struct AgentRow {
    pub agent_id: String,
    pub name: String,
    pub state: String,
    pub reason: Option<String>,
    pub labels: String,
    pub slots: i64,
    pub facts: String,
    pub boot_id: Option<String>,
    pub connected_ms: Option<i64>,
    pub renewed_ms: Option<i64>,
    pub created_at: i64,
    pub resumed_ms: i64,
}

/// How an attempt of an agent ended.
#[derive(Clone, Debug, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0003_create_builds.sql"
)]
pub struct EndedAttempt {
    pub outcome: Option<String>,
    pub assigned_ms: i64,
    pub ended_ms: i64,
}

impl Db {
    /// Stores a join token of agents (its hash).
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn insert_join_token(
        &self,
        hash: &str,
        labels: &str,
        uses: u32,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.insert_role_token(PeerRole::Agent, hash, labels, uses, expires, now)
            .await
    }

    /// The same for a process of any role.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn insert_role_token(
        &self,
        role: PeerRole,
        hash: &str,
        labels: &str,
        uses: u32,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (hash, labels) = (hash.to_owned(), labels.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let args = args![hash, labels, uses, expires, now, role.word()];
                tx.execute(sql!("join_tokens/insert"), args)
                    .await
                    .map(|_| ())
            })
        })
        .await
    }

    /// One agent.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn agent(&self, id: &AgentId) -> Result<Option<AgentRow>, StoreError> {
        self.row(sql!("agents/get"), args![id.as_str()]).await
    }

    /// Every agent that is not gone.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn agents(&self) -> Result<Vec<AgentRow>, StoreError> {
        self.rows(sql!("agents/list"), args![]).await
    }

    /// An agent said hello.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn agent_hello(
        &self,
        id: &AgentId,
        boot_id: &str,
        slots: u32,
        facts: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (id, boot_id, facts) = (id.to_string(), boot_id.to_owned(), facts.to_owned());
        self.write_leading(move |tx| {
            Box::pin(async move {
                let args = args![&id, boot_id, slots, facts, now];
                tx.execute(sql!("agents/hello"), args).await?;
                // A machine that was awaited has come up.
                let args = args![id, now];
                tx.execute(sql!("machines/ready"), args).await.map(|_| ())
            })
        })
        .await
    }

    /// Agents renewed their leases; for the page only.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn agents_renewed(&self, seen: Vec<(AgentId, Timestamp)>) -> Result<(), StoreError> {
        self.write_leading(move |tx| {
            Box::pin(async move {
                for (id, at) in seen {
                    tx.execute(sql!("agents/renewed"), args![id.as_str(), at])
                        .await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Drains, quarantines or removes an agent; false when it is gone.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn set_agent_state(
        &self,
        id: &AgentId,
        state: &'static str,
        reason: Option<String>,
    ) -> Result<bool, StoreError> {
        let id = id.to_string();
        self.write(move |tx| {
            Box::pin(async move {
                let args = args![id, state, reason];
                Ok(tx.execute(sql!("agents/set_state"), args).await? == 1)
            })
        })
        .await
    }

    /// The last ten attempts of an agent that ended since somebody last resumed it, newest first.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn last_attempts(&self, id: &AgentId) -> Result<Vec<EndedAttempt>, StoreError> {
        self.rows(sql!("attempts/last_of_agent"), args![id.as_str()])
            .await
    }

    /// Keeps an agent from taking anything until somebody resumes it; false when it took nothing
    /// before.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn quarantine_agent(&self, id: &AgentId, reason: &str) -> Result<bool, StoreError> {
        let (id, reason) = (id.to_string(), reason.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let args = args![id, reason];
                Ok(tx.execute(sql!("agents/quarantine"), args).await? == 1)
            })
        })
        .await
    }

    /// Lets a quarantined or draining agent take work again; false when it is neither.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn resume_agent(&self, id: &AgentId, now: Timestamp) -> Result<bool, StoreError> {
        let id = id.to_string();
        self.write(move |tx| {
            Box::pin(async move {
                let args = args![id, now];
                Ok(tx.execute(sql!("agents/resume"), args).await? == 1)
            })
        })
        .await
    }
}
