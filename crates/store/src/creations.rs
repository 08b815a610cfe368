//! Builds that are made at once are written as one, on PostgreSQL: a burst of pushes then costs as many round
//! trips as one push. Each comes out as if it had been made alone, in their order (`conformance/together.rs`).

use std::collections::{BTreeMap, BTreeSet};

use futures::future::BoxFuture;
use serde_json::{Value, json};
use slipway_core::time::Timestamp;

use crate::builds::{BuildKey, Created, NewBuild};
use crate::creation::{create, row, supersede};
use crate::error::StoreError;
use crate::sql::{args, sql};
use crate::writer::Tx;

#[derive(sqlx::FromRow)]
struct KnownEvent {
    repo_id: String,
    event_key: String,
    build_id: String,
}

#[derive(sqlx::FromRow)]
struct First {
    repo_id: String,
    number: i64,
}

/// Creates builds that waited at once.
pub(crate) fn create_together(
    tx: &mut Tx,
    all: Vec<NewBuild>,
) -> BoxFuture<'_, Result<Vec<Created>, StoreError>> {
    Box::pin(async move {
        if matches!(tx, Tx::Postgres(_)) && all.len() > 1 {
            return at_once(tx, &all).await;
        }
        let mut created = Vec::with_capacity(all.len());
        for new in all {
            created.push(create(tx, new).await?);
        }
        Ok(created)
    })
}

async fn at_once(tx: &mut Tx, all: &[NewBuild]) -> Result<Vec<Created>, StoreError> {
    let mut known = known_events(tx, all).await?;
    // By number in `all`: the build that it joins, or that it is.
    let mut joins: Vec<Option<String>> = Vec::with_capacity(all.len());
    for new in all {
        let event = new.event_key.as_ref();
        let event = event.map(|key| (new.repo_id.to_string(), key.clone()));
        joins.push(event.as_ref().and_then(|event| known.get(event).cloned()));
        if let Some(event) = event {
            // A second one of the same event joins the first.
            known
                .entry(event)
                .or_insert_with(|| new.build_id.to_string());
        }
    }
    let fresh: Vec<&NewBuild> = all
        .iter()
        .zip(&joins)
        .filter(|(_, joins)| joins.is_none())
        .map(|(new, _)| new)
        .collect();
    let mut numbers = numbers(tx, &fresh).await?;
    let mut given = Vec::with_capacity(fresh.len());
    for new in &fresh {
        let next = numbers.get_mut(new.repo_id.as_str());
        let next = next.ok_or(StoreError::NotFound("repository"))?;
        given.push(*next);
        *next += 1;
    }
    insert(tx, &fresh, &given).await?;
    let mut superseded = superseded(tx, &fresh).await?;
    decide(tx, all, &joins).await?;
    let mut given = given.into_iter();
    let created = all.iter().zip(joins).map(|(new, joins)| match joins {
        Some(build) => Created::Existing(build),
        None => Created::New {
            number: given.next().unwrap_or_default(),
            superseded: superseded.remove(new.build_id.as_str()).unwrap_or_default(),
        },
    });
    Ok(created.collect())
}

/// The builds that these events have led to before.
async fn known_events(
    tx: &mut Tx,
    all: &[NewBuild],
) -> Result<BTreeMap<(String, String), String>, StoreError> {
    let keys = all.iter().filter_map(|new| {
        let key = new.event_key.as_ref()?;
        Some(json!({"repo_id": new.repo_id.as_str(), "event_key": key}))
    });
    let keys = Value::Array(keys.collect()).to_string();
    let statement = sql!("builds/find_by_events.postgres");
    let rows: Vec<KnownEvent> = tx.rows(statement, args![keys]).await?;
    Ok(rows
        .into_iter()
        .map(|row| ((row.repo_id, row.event_key), row.build_id))
        .collect())
}

/// By repository, the first of as many numbers as it needs.
async fn numbers(tx: &mut Tx, fresh: &[&NewBuild]) -> Result<BTreeMap<String, i64>, StoreError> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for new in fresh {
        *counts.entry(new.repo_id.as_str()).or_default() += 1;
    }
    let counts = counts
        .into_iter()
        .map(|(repo_id, count)| json!({"repo_id": repo_id, "count": count}));
    let counts = Value::Array(counts.collect()).to_string();
    let statement = sql!("repositories/take_numbers.postgres");
    let rows: Vec<First> = tx.rows(statement, args![counts]).await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.repo_id, row.number))
        .collect())
}

async fn insert(tx: &mut Tx, fresh: &[&NewBuild], numbers: &[i64]) -> Result<(), StoreError> {
    let builds = fresh.iter().zip(numbers).map(|(new, n)| build(new, *n));
    let builds = Value::Array(builds.collect()).to_string();
    tx.execute(sql!("builds/insert_all.postgres"), args![builds])
        .await?;
    let mut stages = Vec::new();
    for new in fresh {
        for (idx, stage) in (0..).zip(&new.stages) {
            stages.push(row(new, idx, stage)?);
        }
    }
    let stages = Value::Array(stages).to_string();
    tx.execute(sql!("build_stages/insert_all.postgres"), args![stages])
        .await
        .map(|_| ())
}

/// As the statement for many builds reads it.
fn build(new: &NewBuild, number: i64) -> Value {
    let ended = new.status.is_final().then_some(new.created.as_millis());
    let group = new.group.as_ref();
    json!({
        "build_id": new.build_id.as_str(),
        "repo_id": new.repo_id.as_str(),
        "number": number,
        "pipeline": new.pipeline,
        "commit_sha": new.commit_sha,
        "commit_message": new.commit_message,
        "author": new.author,
        "ref_name": new.ref_name,
        "branch": new.branch,
        "status": new.status.as_str(),
        "trigger_type": new.trigger_type,
        "event": new.event,
        "trust": new.trust,
        "event_key": new.event_key,
        "lane": new.lane,
        "concurrency_group": group.map(|(name, _)| name),
        "concurrency_limit": group.map_or(1, |(_, limit)| *limit),
        "urgent": i64::from(new.urgent),
        "errors": new.errors.to_string(),
        "variables": new.variables.to_string(),
        "deploy": new.deploy,
        "initiator": new.initiator,
        "created_at": new.created.as_millis(),
        "log_url": format!("/api/v1/builds/{}/logs", new.build_id),
        "started_at": ended,
        "ended_at": ended,
        "duration": ended.map(|_| 0),
        "committed_at": new.committed_at.map(Timestamp::as_millis),
    })
}

/// What each of these replaces. Few replace anything, and those do it one after the other.
async fn superseded(
    tx: &mut Tx,
    fresh: &[&NewBuild],
) -> Result<BTreeMap<String, Vec<(String, i64, Option<String>)>>, StoreError> {
    let lanes = fresh.iter().filter_map(|new| {
        let (build, repo) = (new.build_id.as_str(), new.repo_id.as_str());
        let lane = new.lane.as_ref()?;
        Some(json!({"build_id": build, "repo_id": repo, "lane": lane}))
    });
    let lanes: Vec<Value> = lanes.collect();
    if lanes.is_empty() {
        return Ok(BTreeMap::new());
    }
    let statement = sql!("builds/newer_in_lanes.postgres");
    let newer: Vec<BuildKey> = tx
        .rows(statement, args![Value::Array(lanes).to_string()])
        .await?;
    let newer: BTreeSet<String> = newer.into_iter().map(|row| row.build_id).collect();
    let mut held = BTreeMap::new();
    for new in fresh {
        if newer.contains(new.build_id.as_str()) {
            held.insert(new.build_id.to_string(), supersede(tx, new).await?);
        }
    }
    Ok(held)
}

async fn decide(tx: &mut Tx, all: &[NewBuild], joins: &[Option<String>]) -> Result<(), StoreError> {
    // The first decision about a delivery stands.
    let mut decided: BTreeMap<&str, Value> = BTreeMap::new();
    for (new, joins) in all.iter().zip(joins) {
        let Some(delivery) = &new.delivery else {
            continue;
        };
        let (state, build) = match joins {
            Some(build) => ("attached", build.as_str()),
            None => ("built", new.build_id.as_str()),
        };
        decided.entry(delivery.as_str()).or_insert_with(|| {
            json!({
                "id": delivery.as_str(),
                "state": state,
                "decision": new.event,
                "build_id": build,
                "decided_ms": new.created.as_millis(),
            })
        });
    }
    let decided = Value::Array(decided.into_values().collect()).to_string();
    tx.execute(sql!("inbox/decide_all.postgres"), args![decided])
        .await
        .map(|_| ())
}
