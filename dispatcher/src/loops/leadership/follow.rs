//! What a dispatcher does that does not lead: it tells the leader of what came to it, hears of changes
//! for those who watch builds here, and tries to take the lead.

use std::sync::Arc;
use std::time::Duration;

use slipway_core::id::{AgentId, BuildId};
use slipway_core::queue::AgentState;
use slipway_daemon::Shutdown;
use slipway_store::{ANNOUNCEMENT_MAX, Announcements};
use tokio::time::timeout;

use super::{ANSWER, TRY, TTL};
use crate::loops::scheduling::Nudge;
use crate::state::{App, Inboxes, Lead};
use crate::usecases::cut_off_agent::cut_off_agent;

/// Announced by a leader that stops: no need to wait.
pub(super) const RESIGNED: &str = "lead free";
const LEAD: &str = "lead";
/// Begins every announcement.
const FROM: &str = "from";
/// A delivery was stored.
const DELIVERY: &str = "delivery";
/// Stages of a build changed.
const BUILD: &str = "build";
/// An agent may or may not take work, or is gone.
const AGENT: &str = "agent";
/// Changes within this are one announcement.
const GATHER: Duration = Duration::from_millis(50);
/// Before listening again after the connection broke.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Follows until this dispatcher is elected (its epoch) or the process stops (`None`).
pub(super) async fn until_elected(
    app: &App,
    inboxes: &Inboxes,
    holder: &str,
    shutdown: &Shutdown,
) -> Option<i64> {
    let (mut deliveries, mut nudges) =
        (inboxes.deliveries.lock().await, inboxes.nudges.lock().await);
    let mut others = listen(app).await;
    let mut look = tokio::time::interval(TRY);
    loop {
        let due = tokio::select! {
            () = shutdown.cancelled() => return None,
            _ = look.tick() => true,
            Some(id) = deliveries.recv() => {
                announce(app, &format!("{DELIVERY} {id}")).await;
                false
            }
            Some(nudge) = nudges.recv() => {
                match nudge {
                    Nudge::BuildChanged(build) => {
                        announce(app, &format!("{BUILD} {build}")).await;
                    }
                    // Drained, resumed or removed here; its stream is at the leader.
                    Nudge::State(agent, _) | Nudge::Removed(agent, _) => {
                        announce(app, &format!("{AGENT} {agent}")).await;
                    }
                    // Everything else is of streams, which are not here; who asks why something
                    // waits hears that nobody answers.
                    _ => {}
                }
                false
            }
            heard = next(&mut others) => match heard {
                Some(text) => heard_as_follower(app, &text),
                None => {
                    others = None;
                    false
                }
            },
        };
        if due {
            if others.is_none() {
                others = listen(app).await;
            }
            if let Some(epoch) = elect(app, holder).await {
                return Some(epoch);
            }
        }
    }
}

async fn listen(app: &App) -> Option<Announcements> {
    timeout(ANSWER, app.db.listen()).await.ok()?.ok()?
}

/// The next announcement; `None` when there will be none. Without a listener it never comes.
async fn next(others: &mut Option<Announcements>) -> Option<String> {
    match others {
        Some(others) => others.next().await.ok(),
        None => std::future::pending().await,
    }
}

/// Whether to try to take the lead at once.
fn heard_as_follower(app: &App, text: &str) -> bool {
    let mut lead_is_free = false;
    for (kind, id) in lines(app, text) {
        match kind {
            BUILD => {
                if let Ok(build) = id.parse() {
                    let _nobody_watches = app.changes.send(build);
                }
            }
            LEAD => lead_is_free = true,
            _ => {}
        }
    }
    lead_is_free
}

/// What another dispatcher announces: kind and id, one per line. Its own words come back to everybody,
/// and say nothing new.
fn lines<'a>(app: &App, text: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    match lines.next() {
        Some((FROM, other)) if other != app.own.id() => lines.collect(),
        _ => Vec::new(),
    }
}

async fn elect(app: &App, holder: &str) -> Option<i64> {
    let address = &app.settings.grpc_url;
    match timeout(ANSWER, app.db.take_lead(holder, address, TTL)).await {
        Ok(Ok(Some(epoch))) => return Some(epoch),
        Ok(Ok(None)) => app.health.recovered("leadership"),
        Ok(Err(error)) => app.health.degraded("leadership", error.to_string()),
        Err(_) => app.health.degraded("leadership", "the database is slow"),
    }
    let known = match timeout(ANSWER, app.db.leader()).await {
        Ok(Ok(Some(row))) => Lead::Other(row.address),
        _ => Lead::Nobody,
    };
    app.lead.send_if_modified(|lead| {
        let other = *lead != known;
        *lead = known;
        other
    });
    None
}

/// Tells every dispatcher of this database; a lost word costs a slow tick.
pub(super) async fn announce(app: &App, text: &str) {
    let text = format!("{FROM} {}\n{text}", app.own.id());
    if let Ok(Err(error)) = timeout(ANSWER, app.db.announce(&text)).await {
        tracing::debug!(%error, "the other dispatchers are not told");
    }
}

/// Tells followers which builds changed, gathered.
pub(super) async fn tell(app: Arc<App>, shutdown: Shutdown) {
    if app.db.engine() == "sqlite" {
        return;
    }
    let mut changes = app.changes.subscribe();
    loop {
        let first = tokio::select! {
            () = shutdown.cancelled() => return,
            first = changes.recv() => first,
        };
        tokio::time::sleep(GATHER).await;
        let mut lines = std::collections::BTreeSet::new();
        lines.extend(first.ok());
        while let Ok(more) = changes.try_recv() {
            lines.insert(more);
        }
        let mut text = String::new();
        for build in lines {
            if text.len() + 128 > ANNOUNCEMENT_MAX {
                announce(&app, &text).await;
                text.clear();
            }
            text.push_str(&format!("{BUILD} {build}\n"));
        }
        announce(&app, &text).await;
    }
}

/// Hears what came to followers: deliveries, cancels, builds started there.
pub(super) async fn hear(app: Arc<App>, shutdown: Shutdown) {
    loop {
        let mut others = match timeout(ANSWER, app.db.listen()).await {
            // Nobody else can be there.
            Ok(Ok(None)) => return,
            Ok(Ok(Some(others))) => Some(others),
            _ => None,
        };
        while others.is_some() {
            let heard = tokio::select! {
                () = shutdown.cancelled() => return,
                heard = next(&mut others) => heard,
            };
            match heard {
                Some(text) => heard_as_leader(&app, &text).await,
                None => others = None,
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LISTEN_AGAIN) => {}
        }
    }
}

async fn heard_as_leader(app: &App, text: &str) {
    for (kind, id) in lines(app, text) {
        match kind {
            DELIVERY => {
                if let Ok(id) = id.parse() {
                    app.inbox.announce(id);
                }
            }
            BUILD => {
                if let Ok(build) = id.parse::<BuildId>() {
                    tell_of_cancels(app, &build).await;
                    let _stopping = app.nudge.send(Nudge::BuildChanged(build)).await;
                }
            }
            AGENT => {
                if let Ok(agent) = id.parse() {
                    look_at_agent(app, agent).await;
                }
            }
            _ => {}
        }
    }
}

/// The row says what became of it.
async fn look_at_agent(app: &App, agent: AgentId) {
    let Ok(Some(row)) = app.db.agent(&agent).await else {
        return;
    };
    if row.state == "gone" {
        if let Err(error) = cut_off_agent(app, agent).await {
            tracing::warn!(%error, "a removed agent's leases end by themselves");
        }
    } else {
        app.agent_state(agent, AgentState::from(row.state.as_str()))
            .await;
    }
}

/// Somebody may have cancelled it elsewhere, where its agents' streams are not.
async fn tell_of_cancels(app: &App, build: &BuildId) {
    let Ok(held) = app.db.held_by_build(build).await else {
        // The flag on the next renewal says it, too.
        return;
    };
    for row in held.iter().filter(|row| row.cancel_ms.is_some()) {
        app.link
            .cancel(row.agent_id.as_deref(), &row.stage_id, row.attempt);
    }
}
