//! Repositories, their hooks, the last seen heads, schedules and sealed secrets.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use slipway_core::id::{HookId, RepoId};
use slipway_core::time::Timestamp;

use crate::db::Db;
use crate::error::StoreError;
use crate::sql::{args, sql};
use crate::writer::Tx;

/// A repository that Slipway builds.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct RepositoryRow {
    /// Its id.
    pub repo_id: String,
    /// Where git finds it.
    pub repo_url: String,
    /// A short name for people.
    pub name: String,
    /// The default branch.
    pub branch: String,
    /// Share of the fleet against other repositories, at least 1.
    pub weight: i64,
    /// When its refs were last compared with the remote's.
    pub reconciled_ms: Option<i64>,
    /// When it was added.
    pub created_at: i64,
}

/// A webhook endpoint.
#[derive(Clone, sqlx::FromRow)]
pub struct HookRow {
    /// The id in the address.
    pub hook_id: String,
    /// Which repository it is bound to.
    pub repo_id: String,
    /// How its deliveries are authenticated.
    pub scheme: String,
    /// The sealed secret.
    pub webhook_secret: Vec<u8>,
    /// The sealed secret before the last rotation.
    pub previous_secret: Option<Vec<u8>>,
    /// Until when the previous one is accepted.
    pub previous_until_ms: Option<i64>,
    /// The code host's immutable id of the repository, when bound.
    pub host_repo_id: Option<String>,
    /// When it was made.
    pub created_at: i64,
}

/// A cron schedule of a repository's default branch.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ScheduleRow {
    /// Whose.
    pub repo_id: String,
    /// Its name in the pipeline file.
    pub name: String,
    /// The cron expression.
    pub schedule: String,
    /// When it is next due.
    pub next_ms: i64,
}

#[derive(sqlx::FromRow)]
struct Head {
    ref_name: String,
    sha: String,
}

#[derive(sqlx::FromRow)]
struct Sealed {
    sealed: Vec<u8>,
}

#[derive(sqlx::FromRow)]
struct Name {
    name: String,
}

/// A head as it was seen; without a commit, that the ref is gone.
#[derive(Clone)]
pub(crate) struct SeenHead {
    repo: String,
    name: String,
    sha: Option<String>,
    now: Timestamp,
}

impl Db {
    /// Adds a repository.
    ///
    /// # Errors
    /// `Conflict` when the address is known already.
    pub async fn insert_repository(&self, row: RepositoryRow) -> Result<(), StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let args = args![
                    row.repo_id,
                    row.repo_url,
                    row.name,
                    row.branch,
                    row.weight,
                    row.created_at
                ];
                tx.execute(sql!("repositories/insert"), args)
                    .await
                    .map(|_| ())
            })
        })
        .await
    }

    /// A repository by id.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn repository(&self, id: &RepoId) -> Result<Option<RepositoryRow>, StoreError> {
        self.row(sql!("repositories/get"), args![id.as_str()]).await
    }

    /// A repository by address.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn repository_by_url(&self, url: &str) -> Result<Option<RepositoryRow>, StoreError> {
        self.row(sql!("repositories/get_by_url"), args![url]).await
    }

    /// Every repository.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn repositories(&self) -> Result<Vec<RepositoryRow>, StoreError> {
        self.rows(sql!("repositories/list"), args![]).await
    }

    /// Remembers that the refs were compared.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn set_reconciled(&self, id: &RepoId, now: Timestamp) -> Result<(), StoreError> {
        let id = id.to_string();
        self.write(move |tx| {
            Box::pin(async move {
                tx.execute(sql!("repositories/set_reconciled"), args![id, now])
                    .await
                    .map(|_| ())
            })
        })
        .await
    }

    /// Adds a hook.
    ///
    /// # Errors
    /// `NotFound` when the repository does not exist.
    pub async fn insert_hook(&self, row: HookRow) -> Result<(), StoreError> {
        self.write(move |tx| {
            Box::pin(async move {
                let args = args![
                    row.hook_id,
                    row.repo_id,
                    row.scheme,
                    row.webhook_secret,
                    row.host_repo_id,
                    row.created_at
                ];
                tx.execute(sql!("hooks/insert"), args).await.map(|_| ())
            })
        })
        .await
    }

    /// A hook by id.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn hook(&self, id: &HookId) -> Result<Option<HookRow>, StoreError> {
        self.row(sql!("hooks/get"), args![id.as_str()]).await
    }

    /// The hooks of a repository.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn hooks(&self, repo: &RepoId) -> Result<Vec<HookRow>, StoreError> {
        self.rows(sql!("hooks/list"), args![repo.as_str()]).await
    }

    /// The heads as last seen: (ref, commit).
    ///
    /// # Errors
    /// When the database is away.
    pub async fn ref_heads(&self, repo: &RepoId) -> Result<Vec<(String, String)>, StoreError> {
        let rows: Vec<Head> = self
            .rows(sql!("ref_heads/list"), args![repo.as_str()])
            .await?;
        Ok(rows.into_iter().map(|h| (h.ref_name, h.sha)).collect())
    }

    /// The commit of one head, as last seen.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn ref_head(
        &self,
        repo: &RepoId,
        ref_name: &str,
    ) -> Result<Option<String>, StoreError> {
        let args = args![repo.as_str(), ref_name];
        let row: Option<Head> = self.row(sql!("ref_heads/get"), args).await?;
        Ok(row.map(|head| head.sha))
    }

    /// Remembers a head; `None` forgets a deleted ref.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn put_ref_head(
        &self,
        repo: &RepoId,
        ref_name: &str,
        sha: Option<&str>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let seen = SeenHead {
            repo: repo.to_string(),
            name: ref_name.to_owned(),
            sha: sha.map(str::to_owned),
            now,
        };
        self.groups().heads.submit(seen).await
    }

    /// Replaces the schedules of a repository: (name, expression, next due).
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn replace_schedules(
        &self,
        repo: &RepoId,
        schedules: Vec<(String, String, Timestamp)>,
    ) -> Result<(), StoreError> {
        let repo = repo.to_string();
        self.write(move |tx| {
            Box::pin(async move {
                tx.execute(sql!("schedules/remove_all"), args![&repo])
                    .await?;
                for (name, schedule, next) in schedules {
                    tx.execute(sql!("schedules/put"), args![&repo, name, schedule, next])
                        .await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// The schedules of a repository.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn schedules(&self, repo: &RepoId) -> Result<Vec<ScheduleRow>, StoreError> {
        self.rows(sql!("schedules/list"), args![repo.as_str()])
            .await
    }

    /// Schedules that are due.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn due_schedules(&self, now: Timestamp) -> Result<Vec<ScheduleRow>, StoreError> {
        self.rows(sql!("schedules/due"), args![now]).await
    }

    /// Takes one due schedule; false when somebody else took it first.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn take_schedule(
        &self,
        due: &ScheduleRow,
        next: Timestamp,
    ) -> Result<bool, StoreError> {
        let due = due.clone();
        self.write(move |tx| {
            Box::pin(async move {
                let args = args![due.repo_id, due.name, due.next_ms, next];
                Ok(tx.execute(sql!("schedules/take"), args).await? == 1)
            })
        })
        .await
    }

    /// Stores a sealed secret.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub async fn put_secret(
        &self,
        repo: &RepoId,
        name: &str,
        sealed: Vec<u8>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (repo, name) = (repo.to_string(), name.to_owned());
        self.write(move |tx| {
            Box::pin(async move {
                tx.execute(sql!("secrets/put"), args![repo, name, sealed, now])
                    .await
                    .map(|_| ())
            })
        })
        .await
    }

    /// A sealed secret.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn sealed_secret(
        &self,
        repo: &RepoId,
        name: &str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let row: Option<Sealed> = self
            .row(sql!("secrets/get"), args![repo.as_str(), name])
            .await?;
        Ok(row.map(|r| r.sealed))
    }

    /// The names of a repository's secrets.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn secret_names(&self, repo: &RepoId) -> Result<Vec<String>, StoreError> {
        let rows: Vec<Name> = self
            .rows(sql!("secrets/names"), args![repo.as_str()])
            .await?;
        Ok(rows.into_iter().map(|r| r.name).collect())
    }
}

/// Remembers heads that were seen at once; of one ref the last.
pub(crate) fn put_heads_together(
    tx: &mut Tx,
    seen: Vec<SeenHead>,
) -> BoxFuture<'_, Result<Vec<()>, StoreError>> {
    Box::pin(async move {
        let answers = vec![(); seen.len()];
        let last: BTreeMap<(String, String), (Option<String>, Timestamp)> = seen
            .into_iter()
            .map(|head| ((head.repo, head.name), (head.sha, head.now)))
            .collect();
        let at_once = matches!(tx, Tx::Postgres(_)) && last.len() > 1;
        let mut put = Vec::new();
        for ((repo, name), (sha, now)) in last {
            match sha {
                Some(sha) if at_once => put.push(serde_json::json!({
                    "repo_id": repo, "ref_name": name, "sha": sha, "seen_ms": now.as_millis(),
                })),
                Some(sha) => {
                    let args = args![repo, name, sha, now];
                    tx.execute(sql!("ref_heads/put"), args).await?;
                }
                None => {
                    tx.execute(sql!("ref_heads/remove"), args![repo, name])
                        .await?;
                }
            }
        }
        if !put.is_empty() {
            let put = serde_json::Value::Array(put).to_string();
            tx.execute(sql!("ref_heads/put_all.postgres"), args![put])
                .await?;
        }
        Ok(answers)
    })
}
