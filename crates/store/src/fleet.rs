//! Pools of agents, their machines, and the time of agents. The race between taking an agent away and
//! giving it work is decided here: both go through the one writer, both lock the agent's row first, and
//! each statement demands what the other takes away.

use slipway_core::id::AgentId;
use slipway_core::time::Timestamp;

use crate::db::Db;
use crate::error::StoreError;
use crate::peers;
use crate::sql::{args, sql};
use crate::writer::Tx;

/// A day, in milliseconds.
const DAY_MS: i64 = 86_400_000;

/// A pool as stored.
#[derive(Clone, Debug, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0008_create_fleet.sql"
)]
pub struct PoolRow {
    pub pool: String,
    pub settings: String,
    pub signing_key: Option<Vec<u8>>,
    pub removed_ms: Option<i64>,
    pub updated_at: i64,
}

/// A machine as stored.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0008_create_fleet.sql"
)]
pub struct MachineRow {
    pub agent_id: String,
    pub pool: String,
    pub machine: Option<String>,
    pub state: String,
    pub created_ms: i64,
    pub asked_ms: Option<i64>,
    pub ready_ms: Option<i64>,
    pub drain_ms: Option<i64>,
    pub stop_ms: Option<i64>,
    pub gone_ms: Option<i64>,
    pub counted_ms: i64,
    pub error: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Hours {
    pool: String,
    agent_ms: i64,
}

#[derive(sqlx::FromRow)]
struct Named {
    name: String,
}

#[derive(sqlx::FromRow)]
struct Planned {
    agent_id: String,
}

/// The number of a day, in UTC.
fn day(at: i64) -> i64 {
    at.div_euclid(DAY_MS)
}

/// Puts the time of a machine since it was last counted into the days that it belongs to.
async fn count(tx: &mut Tx, row: &MachineRow, now: Timestamp) -> Result<(), StoreError> {
    let (mut from, to) = (row.counted_ms, now.as_millis());
    if from >= to {
        return Ok(());
    }
    let args = args![&row.agent_id, to, from];
    if tx.execute(sql!("machines/counted"), args).await? == 0 {
        return Ok(());
    }
    while from < to {
        let end = to.min((day(from) + 1) * DAY_MS);
        let args = args![&row.pool, day(from), end - from];
        tx.execute(sql!("pools/add_hours"), args).await?;
        from = end;
    }
    Ok(())
}

impl Db {
    /// Makes or changes a pool. Without a signing key the present one stays.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn put_pool(
        &self,
        pool: &str,
        settings: &str,
        signing_key: Option<Vec<u8>>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let args = args![pool, settings, signing_key, now];
        self.write(move |tx| {
            Box::pin(async move { tx.execute(sql!("pools/put"), args).await.map(|_| ()) })
        })
        .await
    }

    /// Every pool.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn pools(&self) -> Result<Vec<PoolRow>, StoreError> {
        self.rows(sql!("pools/list"), args![]).await
    }

    /// Marks a pool as removed: it is emptied, and forgotten with its last machine. False when there is
    /// none.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn remove_pool(&self, pool: &str, now: Timestamp) -> Result<bool, StoreError> {
        let args = args![pool, now];
        self.write(move |tx| {
            Box::pin(async move { Ok(tx.execute(sql!("pools/remove"), args).await? == 1) })
        })
        .await
    }

    /// Forgets a removed pool that has no machine left.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn forget_pool(&self, pool: &str) -> Result<bool, StoreError> {
        let args = args![pool];
        self.write(move |tx| {
            Box::pin(async move { Ok(tx.execute(sql!("pools/forget"), args).await? == 1) })
        })
        .await
    }

    /// Whose machines they are; `fresh` becomes the name when there is none yet.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn installation(&self, fresh: &str) -> Result<String, StoreError> {
        let args = args![fresh];
        self.write(move |tx| {
            Box::pin(async move {
                tx.execute(sql!("pools/name_installation"), args).await?;
                let named: Option<Named> = tx.row(sql!("pools/installation"), args![]).await?;
                named.map(|n| n.name).ok_or(StoreError::NotFound("name"))
            })
        })
        .await
    }

    /// Writes machines down before anybody is asked for them. A machine whose agent is there already
    /// (somebody else started it) is `ready` at once.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn insert_machines(
        &self,
        pool: &str,
        agents: Vec<AgentId>,
        there: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let pool = pool.to_owned();
        self.write(move |tx| {
            Box::pin(async move {
                let (state, ready) = if there {
                    ("ready", Some(now))
                } else {
                    ("starting", None)
                };
                for agent in agents {
                    let args = args![agent.as_str(), &pool, state, now, ready];
                    tx.execute(sql!("machines/insert"), args).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Every machine that is not gone.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn machines(&self) -> Result<Vec<MachineRow>, StoreError> {
        self.rows(sql!("machines/list"), args![]).await
    }

    /// Machines that have gone since.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn machines_gone(&self, since: Timestamp) -> Result<Vec<MachineRow>, StoreError> {
        self.rows(sql!("machines/recent"), args![since]).await
    }

    /// A machine is about to be asked for: its agent joins with this token. False when it is not to be
    /// started any more.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn machine_asked(
        &self,
        agent: &AgentId,
        token_hash: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (agent, hash) = (agent.to_string(), token_hash.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                let asked = tx
                    .execute(sql!("machines/asked"), args![&agent, now])
                    .await?;
                if asked == 1 {
                    tx.execute(sql!("machines/token"), args![hash, agent])
                        .await?;
                }
                Ok(asked == 1)
            })
        })
        .await
    }

    /// The agent that a join token was made for, while its machine is awaited.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn planned_agent(&self, token_hash: &str) -> Result<Option<AgentId>, StoreError> {
        let found: Option<Planned> = self
            .row(sql!("machines/planned"), args![token_hash])
            .await?;
        Ok(found.and_then(|planned| planned.agent_id.parse().ok()))
    }

    /// The provider said which machine it is.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn machine_named(&self, agent: &AgentId, machine: &str) -> Result<(), StoreError> {
        let args = args![agent.as_str(), machine];
        self.write(move |tx| {
            Box::pin(async move { tx.execute(sql!("machines/named"), args).await.map(|_| ()) })
        })
        .await
    }

    /// The provider did not do what it was asked.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn machine_failed(&self, agent: &AgentId, error: &str) -> Result<(), StoreError> {
        let args = args![agent.as_str(), error];
        self.write(move |tx| {
            Box::pin(async move { tx.execute(sql!("machines/failed"), args).await.map(|_| ()) })
        })
        .await
    }

    /// Takes an idle agent out of the assignment; false when it holds something, is not ready, or is
    /// gone. From then on it is given nothing.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn drain_machine(&self, agent: &AgentId, now: Timestamp) -> Result<bool, StoreError> {
        let agent = agent.to_string();
        self.write(move |tx| {
            Box::pin(async move {
                tx.execute(sql!("agents/lock"), args![&agent]).await?;
                let args = args![&agent, "scale-down"];
                if tx.execute(sql!("agents/drain_idle"), args).await? == 0 {
                    return Ok(false);
                }
                tx.execute(sql!("machines/drain"), args![&agent, now])
                    .await?;
                Ok(true)
            })
        })
        .await
    }

    /// A machine is to be taken away: only when its agent holds nothing, and from then on it is given
    /// nothing and cannot join any more. False when it holds something.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn retire_machine(
        &self,
        agent: &AgentId,
        why: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (agent, why) = (agent.to_string(), why.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                tx.execute(sql!("agents/lock"), args![&agent]).await?;
                let args = args![&agent, now, &why];
                if tx.execute(sql!("machines/retire"), args).await? == 0 {
                    return Ok(false);
                }
                let args = args![&agent, "draining", why];
                tx.execute(sql!("agents/set_state"), args).await?;
                tx.execute(sql!("machines/end_tokens"), args![agent])
                    .await?;
                Ok(true)
            })
        })
        .await
    }

    /// A machine that was being taken away is gone, and its agent with it.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn machine_gone(&self, agent: &AgentId, now: Timestamp) -> Result<bool, StoreError> {
        let agent = agent.to_string();
        self.write(move |tx| {
            Box::pin(async move {
                let row: Option<MachineRow> = tx.row(sql!("machines/get"), args![&agent]).await?;
                let gone = tx
                    .execute(sql!("machines/gone"), args![&agent, now])
                    .await?;
                if gone == 0 {
                    return Ok(false);
                }
                if let Some(row) = row {
                    count(tx, &row, now).await?;
                }
                // Its certificate outlives the machine, and must be worth nothing from now on.
                peers::revoke(tx, &agent, "scaled down", now).await?;
                tx.execute(sql!("machines/forget_tokens"), args![agent])
                    .await?;
                Ok(true)
            })
        })
        .await
    }

    /// Counts the time of every machine, and forgets those that went before `keep`.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn count_machines(&self, now: Timestamp, keep: Timestamp) -> Result<(), StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let rows: Vec<MachineRow> = tx.rows(sql!("machines/list"), args![]).await?;
                for row in rows {
                    count(tx, &row, now).await?;
                }
                tx.execute(sql!("machines/prune"), args![keep])
                    .await
                    .map(|_| ())
            })
        })
        .await
    }

    /// Counted time of agents on the day of `now`, by pool, in milliseconds.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn pool_hours(&self, now: Timestamp) -> Result<Vec<(String, i64)>, StoreError> {
        let rows: Vec<Hours> = self
            .rows(sql!("pools/hours"), args![day(now.as_millis())])
            .await?;
        Ok(rows.into_iter().map(|r| (r.pool, r.agent_ms)).collect())
    }
}
