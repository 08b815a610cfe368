//! Finds rollouts that nobody drives, claims them, and starts a driver for each; starts what follows
//! from a success.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::run::Coordinator;
use crate::usecases::follow_up;

/// Rollouts that one coordinator drives at once; further ones wait for the next look.
const DRIVEN_MAX: usize = 200;
/// How often rollouts are looked for without being told.
const TICK: Duration = Duration::from_secs(5);

/// Runs until shutdown.
pub(crate) async fn reconcile(coordinator: Arc<Coordinator>) {
    let driven: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let mut trouble = false;
    let mut followed = BTreeSet::new();
    loop {
        let looked = match look(&coordinator, &driven).await {
            Ok(()) => follow_up(&coordinator, &mut followed)
                .await
                .map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        match looked {
            Ok(()) => {
                if std::mem::take(&mut trouble) {
                    coordinator.health.recovered("store");
                }
            }
            Err(error) => {
                trouble = true;
                coordinator.health.degraded("store", format!("{error:#}"));
                tracing::warn!("cannot look for rollouts: {error:#}");
            }
        }
        tokio::select! {
            () = coordinator.shutdown.cancelled() => return,
            () = coordinator.new_work.notified() => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

async fn look(
    coordinator: &Arc<Coordinator>,
    driven: &Arc<Mutex<BTreeSet<String>>>,
) -> anyhow::Result<()> {
    for row in coordinator.db.rollouts_in_progress().await? {
        let id = row.deployment_id.clone();
        let busy = {
            let driven = driven.lock().unwrap_or_else(PoisonError::into_inner);
            driven.contains(&id) || driven.len() >= DRIVEN_MAX
        };
        if busy {
            continue;
        }
        if !coordinator.claim(&row, 0).await? {
            continue;
        }
        driven
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.clone());
        let (coordinator, driven) = (Arc::clone(coordinator), Arc::clone(driven));
        let shutdown = coordinator.shutdown.clone();
        shutdown.spawn("rollout", async move {
            let _present = Present {
                driven,
                id: id.clone(),
            };
            super::drive::drive(&coordinator, &id).await;
        });
    }
    Ok(())
}

/// A driver's place among the driven; given up however the driver ends.
struct Present {
    driven: Arc<Mutex<BTreeSet<String>>>,
    id: String,
}

impl Drop for Present {
    fn drop(&mut self) {
        self.driven
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}
