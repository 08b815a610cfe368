//! `make demo`: Slipway's main job on this machine, through the real components, with a table of what
//! happened at the end. `DEMO_EXIT=1` ends by itself, with 0 only when every step held.
//!
//! Nothing here is faked: a git repository, a signed webhook over HTTP, containers, an image registry,
//! a router that carries a client's requests while versions change.

#![expect(clippy::print_stdout, reason = "the demonstration talks")]

mod canary;
mod shop;
mod stage;
mod traffic;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;
use slipway_daemon::Clock;

use shop::Shop;
use stage::Stage;
use traffic::Traffic;

fn main() -> anyhow::Result<()> {
    slipway_daemon::start::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(demo())
}

/// What happened, and how long it took.
struct Steps {
    clock: Clock,
    since: Duration,
    done: Vec<(String, Duration, String)>,
}

impl Steps {
    fn new() -> Self {
        let clock = Clock::system();
        Self {
            since: clock.monotonic(),
            clock,
            done: Vec::new(),
        }
    }

    fn title(&mut self, what: &str) {
        self.since = self.clock.monotonic();
        println!("\n━━ {what}");
    }

    fn held(&mut self, what: &str, note: impl Into<String>) {
        let took = self.clock.monotonic() - self.since;
        let note = note.into();
        println!("   ✓ {what}  ({:.1} s)  {note}", took.as_secs_f64());
        self.done.push((what.to_owned(), took, note));
        self.since = self.clock.monotonic();
    }

    fn table(&self) {
        println!("\n━━ what happened");
        for (what, took, note) in &self.done {
            println!("   {:<46} {:>7.2} s  {note}", what, took.as_secs_f64());
        }
    }
}

async fn demo() -> anyhow::Result<()> {
    let mut steps = Steps::new();
    steps.title("start: an image registry and `slipway up`");
    let stage = Stage::start().await?;
    let told = stage.told_to_end();
    let outcome = match std::env::args().nth(1).as_deref() {
        Some("canary") => canary::act(&stage, &mut steps).await,
        Some(other) => Err(anyhow::anyhow!(
            "there is no demonstration `{other}`; `canary` is one"
        )),
        None => act(&stage, &mut steps).await,
    };
    steps.table();
    match &outcome {
        Ok(()) => println!("\n   every step held"),
        Err(error) => println!("\n   ✗ {error:#}\n   logs: {}", stage.dir.display()),
    }
    if !told && outcome.is_ok() {
        println!("\n   slipway is still up: {}", stage.rest);
        println!("   production answers at http://{}", stage.production);
        println!(
            "   try: SLIPWAY_DATA_DIR={} SLIPWAY_SERVER={} {} deploy list",
            stage.data.display(),
            stage.rest,
            stage.binary.display()
        );
        println!("   Ctrl-C ends the demonstration");
        tokio::signal::ctrl_c().await?;
    }
    stage.stop().await;
    outcome
}

async fn act(stage: &Stage, steps: &mut Steps) -> anyhow::Result<()> {
    steps.held("everything is up", stage.rest.clone());
    let mut shop = Shop::create(stage).await?;
    steps.held("a sample service and its webhook", shop.url.clone());

    steps.title("version 1: push, webhook, build");
    let first = release(stage, &mut shop, steps, "1").await?;
    let image = first["docker_image_uri"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    check_report(&first, steps)?;
    shop.check_in_registry(stage, &image).await?;
    steps.held("the image is in the registry", image.clone());
    steps.title("version 1: staging, approval, production");
    roll_out(stage, &shop, steps, &first).await?;
    let body = stage.ask(stage.production).await?;
    ensure!(body["version"] == "1", "production serves {body}");
    steps.held("production serves version 1", body.to_string());

    steps.title("version 2: a blue-green switch under traffic");
    let second = release(stage, &mut shop, steps, "2").await?;
    let traffic = Traffic::start(stage.production);
    roll_out(stage, &shop, steps, &second).await?;
    traffic.wait_for("2", Duration::from_secs(20)).await?;
    let seen = traffic.stop().await;
    println!("   requests: {seen}");
    ensure!(
        seen.failed == 0,
        "{} of {} requests failed",
        seen.failed,
        seen.total()
    );
    steps.held("switched with no failed request", seen.to_string());

    keep_away(stage, &mut shop, steps).await?;
    roll_back(stage, steps).await
}

/// A version whose health check fails never gets traffic.
async fn keep_away(stage: &Stage, shop: &mut Shop, steps: &mut Steps) -> anyhow::Result<()> {
    steps.title("version 3: its health check fails");
    let bad = release(stage, shop, steps, "3").await?;
    let build = bad["build_id"].as_str().unwrap_or_default();
    let kept_away = stage.deployment_of(build, "staging").await?;
    let ended = stage.ended(&kept_away, Duration::from_secs(120)).await?;
    ensure!(
        ended["status"] == "failed",
        "staging ended {}",
        ended["status"]
    );
    println!("   {}", ended["reason"].as_str().unwrap_or_default());
    let body = stage.ask(stage.production).await?;
    ensure!(body["version"] == "2", "production serves {body}");
    let body = stage.ask(stage.staging).await?;
    ensure!(body["version"] == "2", "staging serves {body}");
    steps.held(
        "the bad version was kept away",
        "staging and production serve version 2",
    );
    Ok(())
}

async fn roll_back(stage: &Stage, steps: &mut Steps) -> anyhow::Result<()> {
    steps.title("roll back by command");
    let current = stage.latest("production").await?;
    let traffic = Traffic::start(stage.production);
    let back = stage
        .put(
            &format!("/deployments/{current}/rollback"),
            json!({"reason": "the demonstration wants version 1"}),
        )
        .await?;
    traffic.wait_for("1", Duration::from_secs(20)).await?;
    steps.held(
        "traffic is back on version 1",
        "from request to the first answer",
    );
    let deployment = back["deployment_id"].as_str().unwrap_or_default();
    stage.ended(deployment, Duration::from_secs(60)).await?;
    let seen = traffic.stop().await;
    ensure!(
        seen.failed == 0,
        "{} of {} requests failed",
        seen.failed,
        seen.total()
    );
    steps.held("no request failed meanwhile", seen.to_string());
    Ok(())
}

/// Pushes a version, delivers the webhook, follows the build.
async fn release(
    stage: &Stage,
    shop: &mut Shop,
    steps: &mut Steps,
    version: &str,
) -> anyhow::Result<serde_json::Value> {
    let sha = shop.push(version)?;
    steps.held(&format!("pushed version {version}"), sha[..7].to_owned());
    let delivery = shop.deliver(stage).await?;
    steps.held("webhook acknowledged", delivery.clone());
    let build = stage.build_of(&shop.hook, &delivery).await?;
    stage.follow(&build).await?;
    let found = stage.get(&format!("/builds/{build}")).await?;
    if found["status"] != "passed" {
        for stage in found["stages"].as_array().into_iter().flatten() {
            println!(
                "   {} {} {}",
                stage["stage_name"], stage["status"], stage["reason"]
            );
        }
    }
    ensure!(found["status"] == "passed", "the build {}", found["status"]);
    let stages = found["stages"].as_array().map_or(0, Vec::len);
    steps.held("build passed", format!("{stages} stages"));
    Ok(found)
}

fn check_report(build: &serde_json::Value, steps: &mut Steps) -> anyhow::Result<()> {
    let tests = &build["test_results"];
    ensure!(
        tests["state"] == "present" && tests["failed"] == 0,
        "tests: {tests}"
    );
    let coverage = build["test_coverage"].as_f64().context("no coverage")?;
    let note = format!("{} tests passed, {coverage:.0} % covered", tests["passed"]);
    steps.held("tests and coverage are on the build", note);
    Ok(())
}

/// Staging by itself, approval, production.
async fn roll_out(
    stage: &Stage,
    _shop: &Shop,
    steps: &mut Steps,
    build: &serde_json::Value,
) -> anyhow::Result<()> {
    let build = build["build_id"].as_str().context("no build id")?;
    let staging = stage.deployment_of(build, "staging").await?;
    stage.completed(&staging, Duration::from_secs(120)).await?;
    steps.held("staging, with its smoke test", staging);
    let production = stage.deployment_of(build, "production").await?;
    stage
        .in_phase(&production, "await_approval", Duration::from_secs(30))
        .await?;
    println!("   production waits for approval; approving as `admin`");
    let answer = stage
        .put(&format!("/deployments/{production}/approve"), json!({}))
        .await?;
    ensure!(answer["proceed_to_prod"] == true, "{answer}");
    steps.held("approved", "");
    stage
        .completed(&production, Duration::from_secs(120))
        .await?;
    steps.held("production", production);
    Ok(())
}
