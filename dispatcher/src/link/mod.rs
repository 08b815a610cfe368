//! The agents' streams held by this dispatcher: who is connected, and a way to tell them something.
//!
//! Messages are hints or copies of rows; losing one loses nothing. A stream whose reader does not
//! keep up is closed: its agent comes back and is told what holds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use slipway_core::id::AgentId;
use slipway_core::lease::terms::CANCEL_GRACE;
use slipway_proto::v1;
use tokio::sync::mpsc;

/// Messages to one agent that wait to be sent.
pub const OUTBOX: usize = 256;

/// A message on its way to an agent.
pub type Outgoing = Result<v1::DispatcherMessage, tonic::Status>;

struct Session {
    number: u64,
    sender: mpsc::Sender<Outgoing>,
}

#[derive(Default)]
struct Sessions {
    next: u64,
    by_agent: BTreeMap<AgentId, Session>,
}

/// All streams. Cheap to clone; clones share.
#[derive(Clone, Default)]
pub struct Link(Arc<Mutex<Sessions>>);

impl Link {
    fn with<T>(&self, change: impl FnOnce(&mut Sessions) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Registers a stream; an older one of the same agent is closed. Answers with its number.
    #[must_use]
    pub fn open(&self, agent: &AgentId, sender: mpsc::Sender<Outgoing>) -> u64 {
        self.with(|sessions| {
            sessions.next += 1;
            let number = sessions.next;
            let session = Session { number, sender };
            sessions.by_agent.insert(agent.clone(), session);
            number
        })
    }

    /// Forgets a stream, unless a newer one took its place. Whether it was the present one.
    pub fn close(&self, agent: &AgentId, number: u64) -> bool {
        self.with(|sessions| {
            let present = sessions
                .by_agent
                .get(agent)
                .is_some_and(|s| s.number == number);
            if present {
                sessions.by_agent.remove(agent);
            }
            present
        })
    }

    /// Whether an agent's stream is open.
    #[must_use]
    pub fn is_connected(&self, agent: &AgentId) -> bool {
        self.with(|sessions| sessions.by_agent.contains_key(agent))
    }

    /// How many streams are open.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.with(|sessions| sessions.by_agent.len())
    }

    /// Sends a message; false when the agent is not connected or does not keep up.
    pub fn send(&self, agent: &AgentId, message: v1::dispatcher_message::Message) -> bool {
        let message = v1::DispatcherMessage {
            message: Some(message),
        };
        self.with(|sessions| {
            let Some(session) = sessions.by_agent.get(agent) else {
                return false;
            };
            let sent = session.sender.try_send(Ok(message)).is_ok();
            if !sent {
                sessions.by_agent.remove(agent);
            }
            sent
        })
    }

    /// Tells an agent that an attempt is cancelled. The truth is in the store.
    pub fn cancel(&self, agent: Option<&str>, stage: &str, attempt: i64) {
        let Some(agent) = agent.and_then(|id| id.parse().ok()) else {
            return;
        };
        let message = v1::Cancel {
            attempt: Some(v1::AttemptRef {
                stage_id: stage.to_owned(),
                attempt: u32::try_from(attempt).unwrap_or(0),
            }),
            grace_ms: u64::try_from(CANCEL_GRACE.as_millis()).unwrap_or(10_000),
        };
        self.send(&agent, v1::dispatcher_message::Message::Cancel(message));
    }

    /// Closes every stream, telling agents when to come back.
    pub fn restart(&self, window_ms: u64) {
        self.with(|sessions| {
            for session in std::mem::take(&mut sessions.by_agent).into_values() {
                let message =
                    v1::dispatcher_message::Message::Restarting(v1::Restarting { window_ms });
                let message = v1::DispatcherMessage {
                    message: Some(message),
                };
                let _best_effort = session.sender.try_send(Ok(message));
            }
        });
    }

    /// Closes an agent's stream.
    pub fn drop_agent(&self, agent: &AgentId) {
        self.with(|sessions| sessions.by_agent.remove(agent));
    }
}
