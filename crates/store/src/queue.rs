//! The stages that wait or are held: the queue, and ownership of attempts.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::BoxFuture;
use slipway_core::id::{AgentId, BuildId, RepoId, StageId};
use slipway_core::time::Timestamp;

use crate::db::Db;
use crate::error::StoreError;
use crate::sql::{args, sql};
use crate::writer::Tx;

/// What the planner's index needs to know of one stage.
#[derive(Clone, Debug, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0003_create_builds.sql"
)]
pub struct QueueRow {
    pub stage_id: String,
    pub build_id: String,
    pub repo_id: String,
    pub stage_name: String,
    pub state: String,
    pub attempt: i64,
    pub agent_id: Option<String>,
    pub priority: i64,
    pub labels: String,
    pub concurrency_group: Option<String>,
    pub concurrency_limit: i64,
    pub ready_ms: Option<i64>,
    pub not_before_ms: i64,
    pub cancel_ms: Option<i64>,
    pub at_most_once: i64,
    pub lost_agents: String,
    pub timeout_ms: i64,
    pub cache_key: String,
    pub critical_ms: i64,
    pub memo: String,
    pub urgent: i64,
    pub lane: Option<String>,
    pub weight: i64,
    pub build_group: Option<String>,
    pub build_group_limit: i64,
    pub build_created: i64,
    pub build_status: String,
}

/// A held attempt.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
#[expect(
    missing_docs,
    reason = "the columns; see migrations/sqlite/0003_create_builds.sql"
)]
pub struct LiveStage {
    pub stage_id: String,
    pub attempt: i64,
    pub agent_id: Option<String>,
    pub state: String,
    pub cancel_ms: Option<i64>,
    pub build_id: String,
    pub at_most_once: i64,
}

/// A stage to be given to an agent.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// Which stage.
    pub stage_id: StageId,
    /// The attempt number before this assignment: the fence.
    pub attempt: i64,
    /// To whom.
    pub agent_id: AgentId,
    /// SHA-256 of the attempt's token, hex.
    pub token_hash: String,
}

/// An attempt that an agent took.
#[derive(Clone)]
pub(crate) struct Beginning {
    stage: String,
    attempt: i64,
    agent: String,
    now: Timestamp,
}

#[derive(sqlx::FromRow)]
struct StageKey {
    stage_id: String,
}

#[derive(sqlx::FromRow)]
struct Page {
    build_id: String,
}

#[derive(sqlx::FromRow)]
struct Duration {
    stage_name: String,
    duration: i64,
}

impl Db {
    /// Everything that is ready or held, for the in-memory index.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn queue(&self) -> Result<Vec<QueueRow>, StoreError> {
        self.rows(sql!("build_stages/queue"), args![]).await
    }

    /// A part of the same: about 2,000 stages of the builds after one, and the build it ends with;
    /// `None` when it is the last part.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn queue_after(
        &self,
        after: Option<&BuildId>,
    ) -> Result<(Vec<QueueRow>, Option<BuildId>), StoreError> {
        let after = after.map_or("", BuildId::as_str);
        let end: Option<Page> = self
            .row(sql!("build_stages/queue_page_end"), args![after])
            .await?;
        let end = end.and_then(|page| page.build_id.parse::<BuildId>().ok());
        // No id is greater than this, in any collation.
        let to = end
            .as_ref()
            .map_or("ZZZZZZZZZZZZZZZZZZZZZZZZZZZ", BuildId::as_str);
        let rows = self.rows(sql!("build_stages/queue_between"), args![after, to]);
        Ok((rows.await?, end))
    }

    /// The same for one build.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn queue_of_build(&self, build: &BuildId) -> Result<Vec<QueueRow>, StoreError> {
        match self {
            Self::Postgres(db) => db.lookups.queues.ask(build.as_str()).await,
            Self::Sqlite(_) => {
                self.rows(sql!("build_stages/queue_of_build"), args![build.as_str()])
                    .await
            }
        }
    }

    /// Gives stages to agents. For each: whether it holds. What does not hold was changed by somebody
    /// else meanwhile (cancelled, agent draining, group full) and must be planned again.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn assign(
        &self,
        assignments: Vec<Assignment>,
        now: Timestamp,
    ) -> Result<Vec<bool>, StoreError> {
        self.write_leading(move |tx| {
            Box::pin(async move {
                let mut at_once = assign_at_once(tx, &assignments, now).await?;
                let mut held = Vec::with_capacity(assignments.len());
                for a in assignments {
                    held.push(at_once.remove(a.stage_id.as_str()) || assign(tx, a, now).await?);
                }
                Ok(held)
            })
        })
        .await
    }

    /// The attempt executes, and its build with it; false when it may not (cancelled or not current).
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn mark_running(
        &self,
        stage: &StageId,
        attempt: i64,
        agent: &AgentId,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let beginning = Beginning {
            stage: stage.to_string(),
            attempt,
            agent: agent.to_string(),
            now,
        };
        self.groups().beginnings.submit(beginning).await
    }

    /// Takes back an assignment that the agent never answered or declined; the next one gets the next
    /// attempt number. False when the attempt went on meanwhile.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn take_back(&self, stage: &StageId, attempt: i64) -> Result<bool, StoreError> {
        let stage = stage.to_string();
        self.write_leading(move |tx| {
            Box::pin(async move {
                let args = args![stage, attempt];
                Ok(tx.execute(sql!("build_stages/take_back"), args).await? == 1)
            })
        })
        .await
    }

    /// Every held attempt.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn held_attempts(&self) -> Result<Vec<LiveStage>, StoreError> {
        self.rows(sql!("build_stages/held"), args![]).await
    }

    /// The attempts that one agent holds.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn held_by_agent(&self, agent: &AgentId) -> Result<Vec<LiveStage>, StoreError> {
        self.rows(sql!("build_stages/held_by_agent"), args![agent.as_str()])
            .await
    }

    /// The attempts of a build that agents hold.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn held_by_build(&self, build: &BuildId) -> Result<Vec<LiveStage>, StoreError> {
        self.rows(sql!("build_stages/held_by_build"), args![build.as_str()])
            .await
    }

    /// The attempt that a token was made for, while it is held.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn attempt_by_token(&self, hash: &str) -> Result<Option<LiveStage>, StoreError> {
        self.row(sql!("build_stages/by_token"), args![hash]).await
    }

    /// The last accepted durations of the stages of a pipeline, at most ten of each:
    /// (stage, milliseconds).
    ///
    /// # Errors
    /// When the database is away.
    pub async fn past_durations(
        &self,
        repo: &RepoId,
        pipeline: &str,
    ) -> Result<Vec<(String, i64)>, StoreError> {
        let args = args![repo.as_str(), pipeline];
        let rows: Vec<Duration> = self.rows(sql!("build_stages/expected"), args).await?;
        Ok(rows
            .into_iter()
            .map(|r| (r.stage_name, r.duration))
            .collect())
    }

    /// The last accepted durations of all stages of a repository: (stage, milliseconds).
    ///
    /// # Errors
    /// When the database is away.
    pub async fn durations_of_repo(&self, repo: &str) -> Result<Vec<(String, i64)>, StoreError> {
        let rows: Vec<Duration> = self
            .rows(sql!("build_stages/durations_of_repo"), args![repo])
            .await?;
        Ok(rows
            .into_iter()
            .map(|r| (r.stage_name, r.duration))
            .collect())
    }
}

/// On PostgreSQL: all that are in no concurrency group, in one statement; which of them it could give. The
/// others are tried one after the other, because each counts in its group.
async fn assign_at_once(
    tx: &mut Tx,
    assignments: &[Assignment],
    now: Timestamp,
) -> Result<BTreeSet<String>, StoreError> {
    if !matches!(tx, Tx::Postgres(_)) {
        return Ok(BTreeSet::new());
    }
    // Another process may be draining one of them: whoever locks it first wins. In one order, so that two
    // of us never wait for each other. SQLite has one writer.
    let agents: BTreeSet<&str> = assignments.iter().map(|a| a.agent_id.as_str()).collect();
    let agents = serde_json::json!(agents).to_string();
    tx.execute(sql!("agents/lock_all.postgres"), args![agents])
        .await?;
    // A plan gives no stage twice; where it does, the first counts.
    let mut first: BTreeMap<&str, serde_json::Value> = BTreeMap::new();
    for a in assignments {
        first.entry(a.stage_id.as_str()).or_insert_with(|| {
            serde_json::json!({
                "stage_id": a.stage_id.as_str(),
                "attempt": a.attempt,
                "agent_id": a.agent_id.as_str(),
                "token_hash": a.token_hash,
            })
        });
    }
    let all = serde_json::Value::Array(first.into_values().collect());
    let args = args![all.to_string(), now];
    let given: Vec<StageKey> = tx
        .rows(sql!("build_stages/assign_all.postgres"), args)
        .await?;
    Ok(given.into_iter().map(|row| row.stage_id).collect())
}

/// Marks attempts that were taken at once as running; whether each may.
pub(crate) fn begin_together(
    tx: &mut Tx,
    taken: Vec<Beginning>,
) -> BoxFuture<'_, Result<Vec<bool>, StoreError>> {
    Box::pin(async move {
        let mut at_once = begin_at_once(tx, &taken).await?;
        let mut good = Vec::with_capacity(taken.len());
        for one in taken {
            good.push(at_once.remove(&one.stage) || begin(tx, &one).await?);
        }
        Ok(good)
    })
}

/// On PostgreSQL: the first of each stage, in one statement; which of them it could mark.
async fn begin_at_once(tx: &mut Tx, taken: &[Beginning]) -> Result<BTreeSet<String>, StoreError> {
    if !matches!(tx, Tx::Postgres(_)) {
        return Ok(BTreeSet::new());
    }
    let mut first: BTreeMap<&str, serde_json::Value> = BTreeMap::new();
    for one in taken {
        first.entry(&one.stage).or_insert_with(|| {
            serde_json::json!({
                "stage_id": one.stage,
                "attempt": one.attempt,
                "agent_id": one.agent,
                "now": one.now.as_millis(),
            })
        });
    }
    let all = serde_json::Value::Array(first.into_values().collect());
    let statement = sql!("build_stages/begin_all.postgres");
    let begun: Vec<StageKey> = tx.rows(statement, args![all.to_string()]).await?;
    Ok(begun.into_iter().map(|row| row.stage_id).collect())
}

async fn begin(tx: &mut Tx, one: &Beginning) -> Result<bool, StoreError> {
    let args = args![&one.stage, one.attempt, &one.agent, one.now];
    let good = tx.execute(sql!("build_stages/mark_running"), args).await? == 1;
    if good {
        let args = args![&one.stage, one.attempt, one.now];
        tx.execute(sql!("attempts/set_started"), args).await?;
        tx.execute(sql!("builds/begin"), args![&one.stage, one.now])
            .await?;
    }
    Ok(good)
}

/// Gives one stage to its agent, and begins its attempt's history; whether it could.
async fn assign(tx: &mut Tx, a: Assignment, now: Timestamp) -> Result<bool, StoreError> {
    let (agent, stage) = (a.agent_id.as_str(), a.stage_id.as_str());
    let row = args![agent, stage, a.attempt, a.token_hash, now];
    if matches!(tx, Tx::Postgres(_)) {
        let both = sql!("build_stages/assign_and_note.postgres");
        return Ok(tx.execute(both, row).await? == 1);
    }
    let good = tx.execute(sql!("build_stages/assign"), row).await? == 1;
    if good {
        let args = args![stage, a.attempt + 1, agent, now];
        tx.execute(sql!("attempts/insert"), args).await?;
    }
    Ok(good)
}
