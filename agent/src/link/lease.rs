//! The link's side of leases: what others may hold is killed first, then there is talk of the rest.

use std::collections::BTreeSet;
use std::time::Duration;

use slipway_core::lease::holder::{Action, Event, Holder};
use slipway_proto::convert::AttemptKey;
use slipway_proto::v1::agent_message::Message as Out;
use slipway_proto::v1::{self, AgentMessage};
use tokio::sync::mpsc;

use super::{Ended, Link, State, TICK, said};
use crate::attempt::Stop;
use crate::capacity;

/// How long a fenced attempt may take to end. An engine that does not answer must not keep us from
/// renewing what we still hold.
const FENCE_LIMIT: Duration = Duration::from_secs(5);

impl Link {
    /// Kills what may have been given to another agent, and waits until it is dead: until then not a
    /// word is said, neither of it nor of anything else.
    pub(super) async fn fence(&self, state: &mut State, endings: &mut mpsc::Receiver<Ended>) {
        let now = self.shared.clock.ticks();
        state.holder.handle(now, Event::Tick);
        let mut doomed = BTreeSet::new();
        while let Some(Action::Fence((stage, attempt))) = state.holder.poll(now) {
            let key = AttemptKey { stage, attempt };
            tracing::warn!(stage = %key.stage, attempt, "killed: another agent may hold it");
            if state.live.contains_key(&key) {
                self.stop(state, &key, Stop::Fenced);
                doomed.insert(key);
            }
        }
        let gone = async {
            while !doomed.is_empty() {
                let Some((key, result)) = endings.recv().await else {
                    return;
                };
                doomed.remove(&key);
                self.ended(state, key, result);
            }
        };
        if tokio::time::timeout(FENCE_LIMIT, gone).await.is_err() {
            tracing::error!("a fenced attempt does not end; its result will be refused");
        }
    }

    /// Waits for something that may take long, which is not standing still.
    pub(super) async fn awake<T>(&self, holder: &mut Holder, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(TICK) => {
                    holder.handle(self.shared.clock.ticks(), Event::Tick);
                }
            }
        }
    }

    /// Says what is held, when it is time to.
    pub(super) async fn renew(
        &self,
        state: &mut State,
        outgoing: &mpsc::Sender<AgentMessage>,
    ) -> anyhow::Result<()> {
        let now = self.shared.clock.ticks();
        match state.holder.poll(now) {
            Some(Action::Renew) => {}
            // Found just now: the next round waits for nobody else.
            Some(Action::Fence((stage, attempt))) => {
                self.stop(state, &AttemptKey { stage, attempt }, Stop::Fenced);
                return Ok(());
            }
            None => return Ok(()),
        }
        let held = state
            .holder
            .held()
            .map(|(stage, attempt)| v1::AttemptRef {
                stage_id: stage.to_string(),
                attempt: *attempt,
            })
            .collect();
        let renew = v1::Renew {
            held,
            pressure: Some(capacity::pressure(&self.data_dir)),
        };
        outgoing.send(said(Out::Renew(renew))).await?;
        state.holder.handle(now, Event::RenewSent);
        Ok(())
    }

    /// Until the next renewal; never so long that a standstill could not be told from a sleep.
    pub(super) fn sleep_time(&self, state: &State) -> Duration {
        let now = self.shared.clock.ticks();
        let next = state.holder.deadline().map_or(TICK, |at| at.since(now));
        next.clamp(Duration::from_millis(5), TICK)
    }

    pub(super) fn stop(&self, state: &State, key: &AttemptKey, why: Stop) {
        if let Some(live) = state.live.get(key) {
            live.stop.send_if_modified(|known| {
                // A fence overrides a cancel; nothing overrides a fence.
                let stronger = known.is_none() || (why == Stop::Fenced && *known != Some(why));
                if stronger {
                    *known = Some(why);
                }
                stronger
            });
        }
    }
}
