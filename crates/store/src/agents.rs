//! Agents and join tokens.

use slipway_core::id::AgentId;
use slipway_core::time::Timestamp;

use crate::db::Db;
use crate::error::StoreError;
use crate::sql::{args, sql};

/// An agent to be registered.
#[derive(Clone, Debug)]
pub struct NewAgent {
    /// Its id.
    pub agent_id: AgentId,
    /// Display name; gates nothing.
    pub name: String,
    /// SHA-256 of its credential, hex.
    pub credential_hash: String,
    /// Now.
    pub created: Timestamp,
}

/// What became of a redemption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinOutcome {
    /// Registered, with the labels that the token carries (JSON object).
    Joined(String),
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
}

#[derive(sqlx::FromRow)]
struct Labels {
    labels: String,
}

#[derive(sqlx::FromRow)]
struct Token {
    uses_left: i64,
}

impl Db {
    /// Stores a join token (its hash).
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
        let (hash, labels) = (hash.to_owned(), labels.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let args = args![hash, labels, uses, expires, now];
                tx.execute(sql!("join_tokens/insert"), args)
                    .await
                    .map(|_| ())
            })
        })
        .await
    }

    /// Redeems a join token and registers the agent, in one compare-and-set.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn join_agent(
        &self,
        token_hash: &str,
        agent: NewAgent,
    ) -> Result<JoinOutcome, StoreError> {
        let hash = token_hash.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let args = args![&hash, agent.created];
                let redeemed: Option<Labels> = tx.row(sql!("join_tokens/redeem"), args).await?;
                let Some(Labels { labels }) = redeemed else {
                    let known: Option<Token> =
                        tx.row(sql!("join_tokens/get"), args![&hash]).await?;
                    return Ok(match known {
                        None => JoinOutcome::Unknown,
                        Some(token) if token.uses_left <= 0 => JoinOutcome::Used,
                        Some(_) => JoinOutcome::Expired,
                    });
                };
                let args = args![
                    agent.agent_id.as_str(),
                    agent.name,
                    agent.credential_hash,
                    &labels,
                    agent.created
                ];
                tx.execute(sql!("agents/insert"), args).await?;
                Ok(JoinOutcome::Joined(labels))
            })
        })
        .await
    }

    /// Who a credential belongs to.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn agent_by_credential(&self, hash: &str) -> Result<Option<AgentRow>, StoreError> {
        self.row(sql!("agents/by_credential"), args![hash]).await
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
        self.write(move |tx| {
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
        self.write(move |tx| {
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
}
