//! What happens to processes and lines.

use std::time::Duration;

use slipway_daemon::Rng;

use crate::Several;
use crate::proxy::Line;

/// Longest fault: two leases of the agents, and more than one of the leader.
const LONGEST_MS: u64 = 13_000;
const SHORTEST_MS: u64 = 300;

/// What it is.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// `kill -9` of a dispatcher, and its next start.
    KillDispatcher(usize),
    /// `kill -9` of an agent, and its next start.
    KillAgent(usize),
    /// A dispatcher stands still.
    FreezeDispatcher(usize),
    /// An agent stands still.
    FreezeAgent(usize),
    /// Something is wrong with the line to a dispatcher.
    Line(usize, Line),
    /// Nothing.
    Calm,
}

/// A fault under way.
pub(super) struct Fault {
    kind: Kind,
    until: Duration,
    lasts: Duration,
}

impl Fault {
    /// Draws one, and lets it happen.
    pub(super) fn begin(several: &mut Several, rng: &Rng, now: Duration) -> Self {
        let which = usize::try_from(rng.number() % 2).unwrap_or(0);
        let lines = [Line::Cut, Line::Silent, Line::Deaf, Line::Mute];
        let line = lines[usize::try_from(rng.number() % 4).unwrap_or(0)];
        let kind = match rng.number() % 10 {
            0 | 1 => Kind::KillDispatcher(which),
            2 | 3 => Kind::KillAgent(which),
            4 => Kind::FreezeDispatcher(which),
            5 => Kind::FreezeAgent(which),
            6..=8 => Kind::Line(which, line),
            _ => Kind::Calm,
        };
        // Many short ones, some that outlast every lease.
        let drawn = || SHORTEST_MS + rng.number() % (LONGEST_MS - SHORTEST_MS);
        let lasts = drawn().min(drawn());
        let lasts = match kind {
            // It is there again at once.
            Kind::KillDispatcher(_) | Kind::KillAgent(_) => Duration::from_secs(2),
            _ => Duration::from_millis(lasts),
        };
        match kind {
            Kind::KillDispatcher(n) => several.restart_member(n),
            Kind::KillAgent(n) => several.restart_agent(n),
            Kind::FreezeDispatcher(n) => several.members[n].process.signal("STOP"),
            Kind::FreezeAgent(n) => several.agents[n].signal("STOP"),
            Kind::Line(n, line) => set(several, n, line),
            Kind::Calm => {}
        }
        Self {
            kind,
            until: now + lasts,
            lasts,
        }
    }

    pub(super) fn is_over(&self, now: Duration) -> bool {
        now >= self.until
    }

    /// All is as before.
    pub(super) fn end(self, several: &mut Several) {
        match self.kind {
            Kind::FreezeDispatcher(n) => several.members[n].process.signal("CONT"),
            Kind::FreezeAgent(n) => several.agents[n].signal("CONT"),
            Kind::Line(n, _) => set(several, n, Line::Whole),
            Kind::KillDispatcher(_) | Kind::KillAgent(_) | Kind::Calm => {}
        }
    }

    /// For counting.
    pub(super) fn kind(&self) -> &'static str {
        match self.kind {
            Kind::KillDispatcher(_) => "dispatcher killed",
            Kind::KillAgent(_) => "agent killed",
            Kind::FreezeDispatcher(_) => "dispatcher frozen",
            Kind::FreezeAgent(_) => "agent frozen",
            Kind::Line(..) => "line cut",
            Kind::Calm => "calm",
        }
    }

    /// For people.
    pub(super) fn what(&self) -> String {
        format!("{:?} for {:?}", self.kind, self.lasts)
    }
}

fn set(several: &Several, number: usize, line: Line) {
    if let Some(proxy) = &several.members[number].proxy {
        proxy.is(line);
    }
}
