//! A stored delivery → its decision: built, attached, ignored or quarantined, with the reason.

use slipway_core::id::{BuildId, DeliveryId, HookId, RepoId};
use slipway_core::trigger::latest::{Ancestry, Head, judge};
use slipway_store::{Delivery, RepositoryRow, StoreError};

use super::plan_build::{Cause, Planned, plan_build};
use crate::intake;
use crate::intake::event::{HostEvent, PullRequest, Push};
use crate::source::{SourceError, Wanted};
use crate::state::App;

/// After so many failed looks at a repository a delivery is put aside for a person.
const TRIES_MAX: i64 = 20;

/// What became of one look at a delivery.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// It has its final decision.
    Decided,
    /// The repository did not answer; look again later.
    Again,
}

/// Decides one delivery.
///
/// # Errors
/// When the store is not available; the delivery stays pending.
pub async fn decide_delivery(app: &App, id: &DeliveryId) -> Result<Look, StoreError> {
    let Some(delivery) = app.db.delivery(id).await? else {
        return Ok(Look::Decided);
    };
    if delivery.state != "pending" {
        return Ok(Look::Decided);
    }
    // Counted before the work: a body that brings a handler down is put aside after three tries.
    app.db.count_delivery_try(id).await?;
    if delivery.tries >= TRIES_MAX {
        return quarantine(app, id, "source_unavailable").await;
    }
    let hook: HookId = delivery
        .hook_id
        .parse()
        .map_err(|_| StoreError::Corrupt("hook_id".to_owned()))?;
    let Some(hook) = app.db.hook(&hook).await? else {
        return quarantine(app, id, "the hook was removed").await;
    };
    let events = match intake::events(&hook, &delivery) {
        Ok(events) => events,
        Err(problem) => return quarantine(app, id, &problem.to_string()).await,
    };
    let repo: RepoId = hook
        .repo_id
        .parse()
        .map_err(|_| StoreError::Corrupt("repo_id".to_owned()))?;
    let Some(repo) = app.db.repository(&repo).await? else {
        return quarantine(app, id, "the repository was removed").await;
    };
    handle(app, id, &delivery, &repo, events).await
}

async fn quarantine(app: &App, id: &DeliveryId, reason: &str) -> Result<Look, StoreError> {
    tracing::warn!(delivery = %id, reason, "a delivery is quarantined");
    decide(app, id, "quarantined", reason, None).await
}

async fn decide(
    app: &App,
    id: &DeliveryId,
    state: &'static str,
    decision: &str,
    build: Option<&BuildId>,
) -> Result<Look, StoreError> {
    let now = app.clock.now();
    app.db
        .decide_delivery(id, state, decision, build, now)
        .await?;
    Ok(Look::Decided)
}

/// One delivery may hold several changes (Bitbucket): each is handled; the last one that built
/// something is named in the decision.
async fn handle(
    app: &App,
    id: &DeliveryId,
    delivery: &Delivery,
    repo: &RepositoryRow,
    events: Vec<HostEvent>,
) -> Result<Look, StoreError> {
    let mut reasons = Vec::new();
    let mut built: Option<(String, bool)> = None;
    let mut gone = None;
    for (n, event) in events.into_iter().enumerate() {
        let key = format!("{}/{n}", delivery.delivery_id);
        let outcome = match event {
            HostEvent::Ping => Ok(Planned::NotWanted("ping".to_owned())),
            HostEvent::Ignored(reason) => Ok(Planned::NotWanted(reason)),
            HostEvent::Deleted { ref_name } => {
                forget_ref(app, repo, &ref_name).await?;
                Ok(Planned::NotWanted(format!("{ref_name} was deleted")))
            }
            HostEvent::Push(push) => pushed(app, id, repo, &push, key).await?,
            HostEvent::PullRequest(request) => requested(app, id, repo, &request, key).await?,
        };
        match outcome {
            Ok(Planned::Builds(builds)) => {
                built = builds
                    .last()
                    .map(|(build, _, new)| (build.clone(), *new))
                    .or(built);
            }
            Ok(Planned::NotWanted(reason)) => reasons.push(reason),
            Err(SourceError::Unavailable(reason)) => {
                tracing::info!(delivery = %id, reason, "the repository does not answer yet");
                return Ok(Look::Again);
            }
            Err(problem) => gone = Some(problem.to_string()),
        }
    }
    match (built, gone) {
        // Decided by the transaction that made the build.
        (Some((_, true)), _) => Ok(Look::Decided),
        (Some((build, false)), _) => {
            let build: Option<BuildId> = build.parse().ok();
            decide(app, id, "attached", "attached", build.as_ref()).await
        }
        (None, Some(problem)) => quarantine(app, id, &problem).await,
        (None, None) => {
            reasons.dedup();
            decide(app, id, "ignored", &reasons.join("; "), None).await
        }
    }
}

async fn forget_ref(app: &App, repo: &RepositoryRow, ref_name: &str) -> Result<(), StoreError> {
    let id: RepoId = repo
        .repo_id
        .parse()
        .map_err(|_| StoreError::Corrupt("repo_id".to_owned()))?;
    app.db
        .put_ref_head(&id, ref_name, None, app.clock.now())
        .await
}

fn wanted(repo: &RepositoryRow, ref_name: &str, sha: &str, before: Option<&String>) -> Wanted {
    Wanted {
        repo_id: repo.repo_id.clone(),
        repo_url: repo.repo_url.clone(),
        ref_name: ref_name.to_owned(),
        sha: sha.to_owned(),
        before: before.cloned(),
    }
}

async fn pushed(
    app: &App,
    id: &DeliveryId,
    repo: &RepositoryRow,
    push: &Push,
    key: String,
) -> Result<Result<Planned, SourceError>, StoreError> {
    let repo_id: RepoId = repo
        .repo_id
        .parse()
        .map_err(|_| StoreError::Corrupt("repo_id".to_owned()))?;
    // A push that the reconciler found first: the webhook joins that build.
    let found = app
        .db
        .unclaimed_reconciled_build(&repo_id, &push.ref_name, &push.after)
        .await?;
    if let Some(build) = found {
        return Ok(Ok(Planned::Builds(vec![(build, 0, false)])));
    }
    let wanted = wanted(repo, &push.ref_name, &push.after, push.before.as_ref());
    let commit = match app.source.commit(&wanted).await {
        Ok(commit) => commit,
        Err(problem) => return Ok(Err(problem)),
    };
    let newest = is_newest(app, &repo_id, push, &wanted).await?;
    let event = if push.ref_name.starts_with("refs/tags/") {
        "tag"
    } else {
        "push"
    };
    let cause = Cause {
        event: event.to_owned(),
        trigger_type: "push",
        ref_name: push.ref_name.clone(),
        sha: push.after.clone(),
        event_key: Some(key),
        newest,
        untrusted: false,
        initiator: push.actor.clone(),
        pipeline: None,
        cron: String::new(),
        variables: std::collections::BTreeMap::new(),
        fresh: false,
        delivery: Some(id.clone()),
    };
    let planned = plan_build(app, repo, &commit, &cause).await?;
    if newest {
        let now = app.clock.now();
        app.db
            .put_ref_head(&repo_id, &push.ref_name, Some(&push.after), now)
            .await?;
        super::submit_build::remember_schedules(app, repo, &push.ref_name, &commit).await?;
    }
    Ok(Ok(planned))
}

/// "Latest" follows ancestry, not arrival: a late delivery moves no branch back.
async fn is_newest(
    app: &App,
    repo: &RepoId,
    push: &Push,
    wanted: &Wanted,
) -> Result<bool, StoreError> {
    let known = app.db.ref_head(repo, &push.ref_name).await?;
    let head = match &known {
        None => Head::Unknown,
        Some(sha) if *sha == push.after => Head::Same,
        Some(sha) if Some(sha) == push.before.as_ref() => Head::IsBefore,
        Some(_) => Head::Other,
    };
    let ancestry = match (&head, &known) {
        (Head::Other, Some(sha)) => match app.source.is_ancestor(wanted, &push.after, sha).await {
            Some(true) => Ancestry::PushIsOlder,
            Some(false) => Ancestry::PushIsNotOlder,
            None => Ancestry::Unknown,
        },
        _ => Ancestry::Unknown,
    };
    Ok(judge(&head, ancestry))
}

async fn requested(
    app: &App,
    id: &DeliveryId,
    repo: &RepositoryRow,
    request: &PullRequest,
    key: String,
) -> Result<Result<Planned, SourceError>, StoreError> {
    // Hosts offer the head of a pull request, also of a fork, under a ref of the target.
    let ref_name = format!("refs/pull/{}/head", request.number);
    let wanted = wanted(repo, &ref_name, &request.sha, None);
    let commit = match app.source.commit(&wanted).await {
        Ok(commit) => commit,
        Err(problem) => return Ok(Err(problem)),
    };
    let cause = Cause {
        event: "pull_request".to_owned(),
        trigger_type: "push",
        ref_name,
        sha: request.sha.clone(),
        event_key: Some(key),
        newest: true,
        untrusted: request.fork,
        initiator: request.actor.clone(),
        pipeline: None,
        cron: String::new(),
        variables: std::collections::BTreeMap::new(),
        fresh: false,
        delivery: Some(id.clone()),
    };
    plan_build(app, repo, &commit, &cause).await.map(Ok)
}
