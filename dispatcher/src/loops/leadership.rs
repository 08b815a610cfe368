//! One dispatcher leads: it plans, decides deliveries, and holds the agents' streams. All take webhooks
//! and answer. The lead is a lease on a row of the database, judged by the database's clock; every write
//! that only a leader may do checks its epoch in its own transaction, so that one that was frozen or cut
//! off changes nothing when it wakes up. On SQLite there is one dispatcher, which leads.

mod follow;

use std::sync::Arc;
use std::time::Duration;

use slipway_daemon::Shutdown;
use slipway_store::Standing;
use tokio::time::timeout;

use super::{handover, inbox, reconcile_refs, scaling, schedules, scheduling};
use crate::state::{App, Inboxes, Lead};

/// How long the lead lasts without renewal: with what follows, assignments go on within 15 s.
const TTL: Duration = Duration::from_secs(10);
/// Between two renewals: two may fail.
const RENEW: Duration = Duration::from_secs(3);
/// Between two tries to take it: what a killed leader's lease leaves of the 15 s is for its agents' way to
/// the next one, on a host that may be busy.
const TRY: Duration = Duration::from_secs(1);
/// How long the database may take to answer one of these.
const ANSWER: Duration = Duration::from_secs(2);
/// So long before the lease could end, a leader that cannot renew stops by itself.
const MARGIN: Duration = Duration::from_secs(2);
/// How long the loops may take to stop.
const STOP: Duration = Duration::from_secs(3);

/// Why a term is over.
enum Over {
    /// The process stops.
    Shutdown,
    /// Another one took over, or may have.
    Lost(&'static str),
}

/// Runs until shutdown.
pub async fn run(app: Arc<App>, inboxes: Inboxes, shutdown: Shutdown) {
    let holder = app.own.id();
    while !shutdown.has_begun() {
        app.db.stand(Standing::Following);
        let Some(epoch) = follow::until_elected(&app, &inboxes, &holder, &shutdown).await else {
            return;
        };
        tracing::info!(epoch, "this dispatcher leads");
        app.db.stand(Standing::Leading(epoch));
        app.lead.send_replace(Lead::Own(epoch));
        let term = shutdown.child();
        begin(&app, &inboxes, &term);
        let over = hold(&app, epoch, &holder, &shutdown).await;
        if let Over::Lost(why) = over {
            tracing::warn!(epoch, why, "this dispatcher leads no more");
            app.db.stand(Standing::Following);
        }
        app.lead.send_replace(Lead::Nobody);
        app.link.restart(0);
        term.begin();
        if !term.drained(STOP).await {
            tracing::warn!("not everything of the term stopped in time; its writes are refused");
        }
        // Streams of output, too, belong to whoever leads.
        app.connections.close(|_| true);
        if let Over::Shutdown = over {
            // Others need not wait for the lease to end.
            let given_up = timeout(ANSWER, app.db.give_up_lead(epoch, &holder)).await;
            if let Ok(Ok(())) = given_up {
                follow::announce(&app, follow::RESIGNED).await;
            }
            return;
        }
    }
}

/// What a leader does.
fn begin(app: &Arc<App>, inboxes: &Inboxes, term: &Shutdown) {
    let app = || Arc::clone(app);
    let deliveries = Arc::clone(&inboxes.deliveries);
    term.spawn("inbox", inbox::run(app(), deliveries, term.clone()));
    let nudges = Arc::clone(&inboxes.nudges);
    term.spawn("scheduling", scheduling::run(app(), nudges, term.clone()));
    term.spawn("handover", handover::run(app(), term.clone()));
    term.spawn("reconcile refs", reconcile_refs::run(app(), term.clone()));
    term.spawn("scaling", scaling::run(app(), term.clone()));
    term.spawn("schedules", schedules::run(app(), term.clone()));
    term.spawn("tell the others", follow::tell(app(), term.clone()));
    term.spawn("hear the others", follow::hear(app(), term.clone()));
}

/// Stays leader for as long as it can.
async fn hold(app: &App, epoch: i64, holder: &str, shutdown: &Shutdown) -> Over {
    if app.db.engine() == "sqlite" {
        shutdown.cancelled().await;
        return Over::Shutdown;
    }
    let mut renewed = app.clock.monotonic();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return Over::Shutdown,
            () = tokio::time::sleep(RENEW) => {}
        }
        // The lease counts from the asking, or earlier.
        let asked = app.clock.monotonic();
        match timeout(ANSWER, app.db.keep_lead(epoch, holder, TTL)).await {
            Ok(Ok(true)) => {
                renewed = asked;
                app.health.recovered("leadership");
            }
            Ok(Ok(false)) => return Over::Lost("another one took over"),
            Ok(Err(error)) => app.health.degraded("leadership", error.to_string()),
            Err(_) => app.health.degraded("leadership", "the database is slow"),
        }
        if app.clock.monotonic() - renewed + MARGIN > TTL {
            return Over::Lost("the lease could not be renewed");
        }
    }
}
