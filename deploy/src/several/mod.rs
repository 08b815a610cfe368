//! Several hosts as one target and as one router.
//!
//! Owns who of them answers, since when one does not, and what is asked of how many at once. Does not own what an
//! answer means: that is `slipway_core::rollout` (hosts). Invariants: a change of tables is prepared everywhere before
//! it is committed anywhere; an instance is not stopped while the router of its host has it in its table with weight,
//! or says nothing.

mod target;
mod traffic;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use slipway_core::rollout::{HOSTS_AT_ONCE, HostView};
use slipway_daemon::Clock;

use crate::targets::Target;
use crate::traffic::Traffic;

pub use target::SeveralTargets;
pub use traffic::SeveralRouters;

/// For a look at a host that answered last time.
const LOOK: Duration = Duration::from_secs(4);
/// For one that did not: whoever is dead must not slow the others down.
const LOOK_SILENT: Duration = Duration::from_millis(800);

/// One host.
#[derive(Clone)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Where its router serves, when not where the environment says.
    pub listen: String,
    /// Its engine.
    pub engine: Arc<dyn Target>,
    /// Its router.
    pub router: Arc<dyn Traffic>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Engine,
    Router,
}

/// The hosts of one environment.
pub struct Hosts {
    all: Vec<Host>,
    clock: Clock,
    /// Who says nothing: since when, and why.
    silent: Mutex<BTreeMap<(usize, Side), (Duration, String)>>,
}

impl Hosts {
    /// In the order in which they are changed.
    #[must_use]
    pub fn new(all: Vec<Host>, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            all,
            clock,
            silent: Mutex::default(),
        })
    }

    fn silent<T>(
        &self,
        act: impl FnOnce(&mut BTreeMap<(usize, Side), (Duration, String)>) -> T,
    ) -> T {
        act(&mut self.silent.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Everybody, as far as they can be reached.
    pub(crate) fn views(&self) -> Vec<HostView> {
        let now = self.clock.monotonic();
        self.silent(|silent| {
            let of = |index, side| silent.get(&(index, side));
            let view = |(index, host): (usize, &Host)| {
                let (engine, router) = (of(index, Side::Engine), of(index, Side::Router));
                let since = |known: Option<&(Duration, String)>| {
                    known.map(|(at, _)| now.saturating_sub(*at))
                };
                HostView {
                    name: host.name.clone(),
                    engine_silent: since(engine),
                    router_silent: since(router),
                    why: router
                        .or(engine)
                        .map(|(_, why)| why.clone())
                        .unwrap_or_default(),
                }
            };
            self.all.iter().enumerate().map(view).collect()
        })
    }

    fn is_silent(&self, index: usize, side: Side) -> bool {
        self.silent(|silent| silent.contains_key(&(index, side)))
    }

    /// Notes what came of a question: whoever refuses has answered.
    fn note(&self, index: usize, side: Side, trouble: Option<String>) {
        let now = self.clock.monotonic();
        self.silent(|silent| match trouble {
            None => {
                silent.remove(&(index, side));
            }
            Some(why) => {
                silent
                    .entry((index, side))
                    .or_insert((now, String::new()))
                    .1 = why;
            }
        });
    }

    fn limit(&self, index: usize, side: Side) -> Duration {
        if self.is_silent(index, side) {
            LOOK_SILENT
        } else {
            LOOK
        }
    }

    fn indices(&self) -> std::ops::Range<usize> {
        0..self.all.len()
    }

    /// Asks so many at once; answers in the order of `which`.
    async fn each<T, F>(
        &self,
        which: impl IntoIterator<Item = usize>,
        ask: impl Fn(usize) -> F,
    ) -> Vec<(usize, T)>
    where
        F: Future<Output = T>,
    {
        use futures::StreamExt as _;
        let asked = which.into_iter().map(|index| {
            let asking = ask(index);
            async move { (index, asking.await) }
        });
        let asked: Vec<_> = asked.collect();
        let mut answers: Vec<(usize, T)> = futures::stream::iter(asked)
            .buffer_unordered(HOSTS_AT_ONCE)
            .collect()
            .await;
        answers.sort_by_key(|(index, _)| *index);
        answers
    }
}
