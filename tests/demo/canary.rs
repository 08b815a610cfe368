//! `make demo DEMO=canary`: a version that fails one request in twenty is given a tenth of the traffic,
//! and the gate takes it back; a healthy one goes step by step to everything.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::shop::Shop;
use crate::stage::Stage;
use crate::traffic::{Steady, Traffic};
use crate::{Steps, release, roll_out};

/// Requests per second.
const RATE: u32 = 50;
/// The first step is baked for this long; the gate must be quicker.
const BAKE: Duration = Duration::from_secs(60);

pub(crate) async fn act(stage: &Stage, steps: &mut Steps) -> anyhow::Result<()> {
    steps.held("everything is up", stage.rest.clone());
    let mut shop = Shop::create(stage).await?;
    shop.production_by_canary()?;
    steps.held("a sample service, rolled out as a canary", shop.url.clone());

    steps.title("version 1: the first one has nobody to share traffic with");
    let first = release(stage, &mut shop, steps, "1").await?;
    roll_out(stage, &shop, steps, &first).await?;

    // What stable is like before is what the new version is compared with.
    let traffic = Traffic::steady(stage.production, Steady { per_second: RATE });
    steps.title("version 4: one request in twenty fails");
    let bad = release(stage, &mut shop, steps, "4").await?;
    let id = approved(stage, &bad).await?;
    stage.in_phase(&id, "bake", Duration::from_secs(60)).await?;
    steps.held(
        "it has 10 % of the traffic",
        format!("{RATE} requests/s in all"),
    );
    let ended = stage.ended(&id, BAKE).await?;
    ensure!(
        ended["status"] == "rolled_back",
        "it ended {}",
        ended["status"]
    );
    let reason = ended["reason"].as_str().unwrap_or_default();
    println!("   {reason}");
    ensure!(
        reason.contains("canary requests failed"),
        "the reason is `{reason}`"
    );
    steps.held("the gate took it back by itself", reason.to_owned());
    verdicts(stage, &id).await?;
    let body = stage.ask(stage.production).await?;
    ensure!(body["version"] == "1", "production serves {body}");

    steps.title("version 5: a healthy one goes to everything");
    let good = release(stage, &mut shop, steps, "5").await?;
    let id = approved(stage, &good).await?;
    stage.completed(&id, Duration::from_secs(300)).await?;
    verdicts(stage, &id).await?;
    let body = stage.ask(stage.production).await?;
    ensure!(body["version"] == "5", "production serves {body}");
    steps.held("version 5 has all traffic", body.to_string());
    let seen = traffic.stop().await;
    println!("   requests: {seen}");
    steps.held("traffic all along", seen.to_string());
    Ok(())
}

/// The production deployment of a build, approved.
async fn approved(stage: &Stage, build: &Value) -> anyhow::Result<String> {
    let build = build["build_id"].as_str().context("no build id")?;
    let staging = stage.deployment_of(build, "staging").await?;
    stage.completed(&staging, Duration::from_secs(120)).await?;
    let production = stage.deployment_of(build, "production").await?;
    let limit = Duration::from_secs(30);
    stage.in_phase(&production, "await_approval", limit).await?;
    let path = format!("/deployments/{production}/approve");
    stage.put(&path, json!({})).await?;
    Ok(production)
}

/// What the gates said, as it was kept.
async fn verdicts(stage: &Stage, id: &str) -> anyhow::Result<()> {
    let health = stage.get(&format!("/deployments/{id}/health")).await?;
    let looks = health["items"].as_array().or(health.as_array());
    for look in looks.into_iter().flatten() {
        println!(
            "   {:>18} │ {:<12} {}",
            look["metric_name"].as_str().unwrap_or_default(),
            look["verdict"].as_str().unwrap_or_default(),
            look["evidence"]["text"].as_str().unwrap_or_default()
        );
    }
    Ok(())
}
