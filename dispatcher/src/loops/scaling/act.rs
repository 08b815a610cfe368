//! Carrying a plan out: persisted first, then asked for. Calls are made beside the loop.

use std::sync::Arc;
use std::time::Duration;

use slipway_core::fleet::{Action, MachineState, PoolSettings, Presence, Snapshot, Why};
use slipway_core::id::AgentId;
use slipway_core::queue::AgentState;
use slipway_identity::JoinToken;
use slipway_proto::v1;
use slipway_proto::v1::dispatcher_message::Message;
use slipway_store::StoreError;

use super::{Answer, Scaling};
use crate::fleet::{AgentSettings, FleetProvider, Order, ProviderError, Target};
use crate::loops::scheduling::Nudge;
use crate::state::App;
use crate::token::{self, Kind};
use crate::usecases::cut_off_agent::cut_off_agent;

/// Longest that a call to a provider may take, whatever limit it has of its own.
const CALL_LIMIT: Duration = Duration::from_secs(150);

impl Scaling {
    pub(super) async fn act(
        &mut self,
        snapshot: &Snapshot,
        action: &Action,
    ) -> Result<(), StoreError> {
        match action {
            Action::Start { pool, count } => self.start(snapshot, pool, *count).await,
            Action::Launch(agent) => {
                if let Some((pool, settings)) = pool_of(snapshot, agent) {
                    self.launch(pool, settings, agent.clone());
                }
                Ok(())
            }
            Action::Drain(agent) => self.drain(agent).await,
            Action::Retire(agent, why) => {
                if let Some((pool, _)) = pool_of(snapshot, agent) {
                    self.retire(pool, agent, *why).await?;
                }
                Ok(())
            }
            Action::Stop(agent) => {
                if let Some((pool, _)) = pool_of(snapshot, agent) {
                    self.stop(pool, agent.clone());
                }
                Ok(())
            }
        }
    }

    async fn start(
        &mut self,
        snapshot: &Snapshot,
        pool: &str,
        count: u32,
    ) -> Result<(), StoreError> {
        let Some(found) = snapshot.pools.iter().find(|p| p.name == pool) else {
            return Ok(());
        };
        let now = self.app.clock.now();
        let agents: Vec<AgentId> = (0..count).map(|_| self.app.rng.id(now)).collect();
        self.app
            .db
            .insert_machines(pool, agents.clone(), false, now)
            .await?;
        tracing::info!(pool, count, "starting agents");
        for agent in agents {
            self.launch(pool, &found.settings, agent);
        }
        Ok(())
    }

    fn provider(
        &self,
        pool: &str,
    ) -> Option<(Arc<dyn FleetProvider>, Arc<tokio::sync::Semaphore>)> {
        let known = self.pools.get(pool)?;
        let provider = known.provider.as_ref().ok()?;
        Some((Arc::clone(provider), Arc::clone(&known.calls)))
    }

    fn launch(&mut self, pool: &str, settings: &PoolSettings, agent: AgentId) {
        let Some((provider, calls)) = self.provider(pool) else {
            return;
        };
        self.in_hand.insert(agent.clone());
        let (app, answers) = (Arc::clone(&self.app), self.answers.clone());
        let (pool, settings) = (pool.to_owned(), settings.clone());
        self.shutdown.spawn("start a machine", async move {
            let _bounded = calls.acquire().await;
            let called = start(&app, provider.as_ref(), &pool, &settings, &agent);
            let outcome = limited(called).await;
            let _stopping = answers.send((pool, Answer::Started(agent, outcome))).await;
        });
    }

    fn stop(&mut self, pool: &str, agent: AgentId) {
        let Some((provider, calls)) = self.provider(pool) else {
            return;
        };
        self.in_hand.insert(agent.clone());
        let (app, answers) = (Arc::clone(&self.app), self.answers.clone());
        let pool = pool.to_owned();
        self.shutdown.spawn("stop a machine", async move {
            let _bounded = calls.acquire().await;
            let called = async {
                let rows = app.db.machines().await.map_err(ProviderError::new)?;
                let row = rows.into_iter().find(|m| m.agent_id == agent.as_str());
                let target = Target {
                    agent: Some(agent.clone()),
                    machine: row.and_then(|m| m.machine),
                };
                provider.stop(&target).await
            };
            let outcome = limited(called).await;
            let answer = Answer::Stopped(Some(agent), outcome);
            let _stopping = answers.send((pool, answer)).await;
        });
    }

    /// Stops what is nobody's.
    pub(super) fn stop_orphan(&self, pool: &str, target: Target) {
        let Some((provider, calls)) = self.provider(pool) else {
            return;
        };
        let (answers, pool) = (self.answers.clone(), pool.to_owned());
        self.shutdown.spawn("stop an orphan", async move {
            let _bounded = calls.acquire().await;
            let outcome = limited(provider.stop(&target)).await;
            let _stopping = answers.send((pool, Answer::Stopped(None, outcome))).await;
        });
    }

    async fn drain(&self, agent: &AgentId) -> Result<(), StoreError> {
        let now = self.app.clock.now();
        if !self.app.db.drain_machine(agent, now).await? {
            // It was given work in this very moment: it stays.
            return Ok(());
        }
        tracing::info!(agent = %agent, "draining an idle agent");
        let nudge = Nudge::State(agent.clone(), AgentState::Draining);
        let _stopping = self.app.nudge.send(nudge).await;
        tell(&self.app, agent);
        Ok(())
    }

    /// A drained agent that said hello again may not know: it is told again.
    pub(super) fn remind(&self, snapshot: &Snapshot) {
        for machine in snapshot.pools.iter().flat_map(|p| &p.machines) {
            let leaving =
                machine.state == MachineState::Draining && machine.presence == Presence::Connected;
            if leaving {
                tell(&self.app, &machine.agent);
            }
        }
    }

    async fn retire(&mut self, pool: &str, agent: &AgentId, why: Why) -> Result<(), StoreError> {
        let now = self.app.clock.now();
        if !self.app.db.retire_machine(agent, why.as_str(), now).await? {
            return Ok(());
        }
        tracing::info!(agent = %agent, pool, why = why.as_str(), "taking a machine away");
        if matches!(why, Why::BootDeadline | Why::Missing)
            && let Some(known) = self.pools.get_mut(pool)
        {
            known.fail("boot", format!("agent {agent}: {}", why.as_str()), now);
        }
        let nudge = Nudge::State(agent.clone(), AgentState::Draining);
        let _stopping = self.app.nudge.send(nudge).await;
        self.stop(pool, agent.clone());
        Ok(())
    }

    /// A provider answered.
    pub(super) async fn hear(&mut self, pool: &str, answer: Answer) -> Result<(), StoreError> {
        let now = self.app.clock.now();
        let (verb, outcome) = match answer {
            Answer::Listed(listed) => return self.listed(pool, listed).await,
            Answer::Started(agent, outcome) => {
                self.in_hand.remove(&agent);
                if let Err(error) = &outcome {
                    self.app
                        .db
                        .machine_failed(&agent, &error.to_string())
                        .await?;
                }
                ("start", outcome)
            }
            Answer::Stopped(agent, outcome) => {
                if let Some(agent) = agent {
                    self.in_hand.remove(&agent);
                    match &outcome {
                        Ok(()) => self.gone(&agent).await?,
                        Err(error) => {
                            self.app
                                .db
                                .machine_failed(&agent, &error.to_string())
                                .await?;
                        }
                    }
                }
                ("stop", outcome)
            }
        };
        if let Some(known) = self.pools.get_mut(pool) {
            match outcome {
                Ok(()) => known.works(verb),
                Err(error) => {
                    tracing::warn!(pool, verb, %error, "a provider failed");
                    known.fail(verb, error.to_string(), now);
                }
            }
        }
        Ok(())
    }

    async fn gone(&self, agent: &AgentId) -> Result<(), StoreError> {
        self.app
            .db
            .machine_gone(agent, self.app.clock.now())
            .await?;
        cut_off_agent(&self.app, agent.clone()).await
    }
}

fn pool_of<'a>(snapshot: &'a Snapshot, agent: &AgentId) -> Option<(&'a str, &'a PoolSettings)> {
    let pool = snapshot
        .pools
        .iter()
        .find(|pool| pool.machines.iter().any(|m| m.agent == *agent))?;
    Some((&pool.name, &pool.settings))
}

fn tell(app: &App, agent: &AgentId) {
    let drain = v1::Drain {
        reason: "scale-down".to_owned(),
    };
    app.link.send(agent, Message::Drain(drain));
}

async fn limited<T>(
    called: impl Future<Output = Result<T, ProviderError>>,
) -> Result<T, ProviderError> {
    tokio::time::timeout(CALL_LIMIT, called)
        .await
        .unwrap_or_else(|_| Err(ProviderError::new("no answer from the provider in time")))
}

/// Makes a join token for this agent alone, then asks the provider.
async fn start(
    app: &App,
    provider: &dyn FleetProvider,
    pool: &str,
    settings: &PoolSettings,
    agent: &AgentId,
) -> Result<(), ProviderError> {
    let now = app.clock.now();
    let secret = token::mint(Kind::Join, &app.rng);
    let hash = token::hash(Kind::Join, &secret).unwrap_or_default();
    let wanted = app.db.machine_asked(agent, &hash, now).await;
    if !wanted.map_err(ProviderError::new)? {
        return Ok(());
    }
    let mut labels = settings.labels.clone();
    labels.insert("pool".to_owned(), pool.to_owned());
    let labels = serde_json::json!(labels).to_string();
    let until = now.after(settings.boot());
    app.db
        .insert_join_token(&hash, &labels, 1, until, now)
        .await
        .map_err(ProviderError::new)?;
    let join = JoinToken::new(&secret, &app.authority.fingerprint()).text();
    let order = Order {
        agent: agent.clone(),
        pool: pool.to_owned(),
        settings: AgentSettings::of(&app.settings.fleet, pool, settings, agent, &join),
    };
    let machine = provider.start(&order).await?;
    app.db
        .machine_named(agent, &machine)
        .await
        .map_err(ProviderError::new)
}
