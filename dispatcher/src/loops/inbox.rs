//! Stored deliveries get their decisions: at once when announced, otherwise by a slow tick.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use slipway_core::id::DeliveryId;
use slipway_daemon::Shutdown;
use tokio::sync::Semaphore;

use crate::state::{App, Shared};
use crate::usecases::decide_delivery::{Look, decide_delivery};

/// Deliveries that are looked at at once. Each waits for three commits, which all of them share; what costs
/// more, fetching, has a limit of its own (`source::git`).
const AT_ONCE: usize = 64;
/// How often forgotten ones are looked for.
const TICK: Duration = Duration::from_secs(2);
/// Deliveries per look.
const PAGE: u32 = 200;
/// A repository that does not answer is asked again after 2 s, 4 s … at most this.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A body that brings its handler down so often is put aside.
const PANICS_MAX: i64 = 3;

/// Runs until shutdown.
pub async fn run(app: Arc<App>, announced: Shared<DeliveryId>, shutdown: Shutdown) {
    let mut announced = announced.lock().await;
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let under_way: Arc<tokio::sync::Mutex<BTreeMap<DeliveryId, Duration>>> = Arc::default();
    let mut tick = tokio::time::interval(TICK);
    loop {
        let due = tokio::select! {
            () = shutdown.cancelled() => return,
            id = announced.recv() => match id {
                Some(id) => vec![id],
                None => return,
            },
            _ = tick.tick() => {
                crate::intake::forget_refused(&app);
                pending(&app).await
            }
        };
        for id in due {
            {
                let mut known = under_way.lock().await;
                if known.contains_key(&id) {
                    continue;
                }
                known.insert(id.clone(), Duration::ZERO);
            }
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return;
            };
            let (app, under_way) = (Arc::clone(&app), Arc::clone(&under_way));
            shutdown.spawn("decide delivery", async move {
                let wait = look(&app, &id).await;
                drop(permit);
                if let Some(wait) = wait {
                    tokio::time::sleep(wait).await;
                }
                under_way.lock().await.remove(&id);
            });
        }
    }
}

async fn pending(app: &App) -> Vec<DeliveryId> {
    match app.db.pending_deliveries(PAGE).await {
        Ok(rows) => {
            app.health.recovered("inbox");
            rows.iter().filter_map(|row| row.id.parse().ok()).collect()
        }
        Err(error) => {
            app.health.degraded("inbox", error.to_string());
            Vec::new()
        }
    }
}

/// One look; how long to leave it alone when it is not decided.
async fn look(app: &Arc<App>, id: &DeliveryId) -> Option<Duration> {
    let (inner, delivery) = (Arc::clone(app), id.clone());
    // A task of its own, so that a panic ends this look and nothing else.
    let task = slipway_daemon::spawn("delivery", async move {
        decide_delivery(&inner, &delivery).await
    });
    match task.await {
        Ok(Some(Ok(Look::Decided))) => None,
        Ok(Some(Ok(Look::Again))) => Some(back_off(app, id).await),
        Ok(Some(Err(error))) => {
            tracing::warn!(%error, delivery = %id, "a delivery cannot be decided yet");
            Some(TICK)
        }
        Ok(None) | Err(_) => {
            put_poison_aside(app, id).await;
            Some(TICK)
        }
    }
}

async fn back_off(app: &App, id: &DeliveryId) -> Duration {
    let tries = match app.db.delivery(id).await {
        Ok(Some(row)) => u32::try_from(row.tries).unwrap_or(0),
        _ => 0,
    };
    TICK.saturating_mul(1 << tries.min(5)).min(RETRY_MAX)
}

async fn put_poison_aside(app: &App, id: &DeliveryId) {
    let tries = match app.db.delivery(id).await {
        Ok(Some(row)) => row.tries,
        _ => return,
    };
    if tries >= PANICS_MAX {
        let now = app.clock.now();
        let decided = app
            .db
            .decide_delivery(
                id,
                "quarantined",
                "poison: the handler failed three times",
                None,
                now,
            )
            .await;
        if let Err(error) = decided {
            tracing::warn!(%error, delivery = %id, "a poisoned delivery cannot be put aside yet");
        }
    }
}
