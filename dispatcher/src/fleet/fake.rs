//! A provider that only remembers, for tests: it passes the same contract as the real ones.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use slipway_core::fleet::{Listed, Listing};
use slipway_core::id::AgentId;

use super::{FleetProvider, Order, ProviderError, Target};

/// What it remembers.
#[derive(Default)]
pub struct Memory {
    /// Machines by agent.
    pub machines: BTreeMap<AgentId, Order>,
    /// How often it was asked to start something.
    pub starts: u32,
    /// Says this instead of doing anything.
    pub failing: Option<String>,
    /// Lists only a part.
    pub partial: bool,
}

/// The provider. Clones share.
#[derive(Clone, Default)]
pub struct FakeProvider(Arc<Mutex<Memory>>);

impl FakeProvider {
    /// Looks into it, or changes it.
    pub fn with<T>(&self, change: impl FnOnce(&mut Memory) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn asked<T>(&self, answer: impl FnOnce(&mut Memory) -> T) -> Result<T, ProviderError> {
        self.with(|memory| match &memory.failing {
            Some(words) => Err(ProviderError::new(words)),
            None => Ok(answer(memory)),
        })
    }
}

#[async_trait]
impl FleetProvider for FakeProvider {
    async fn list(&self) -> Result<Listing, ProviderError> {
        self.asked(|memory| Listing {
            complete: !memory.partial,
            machines: memory
                .machines
                .keys()
                .map(|agent| Listed {
                    agent: Some(agent.clone()),
                    machine: format!("fake-{agent}"),
                    running: true,
                })
                .collect(),
        })
    }

    async fn start(&self, order: &Order) -> Result<String, ProviderError> {
        self.asked(|memory| {
            memory.starts += 1;
            let known = memory.machines.entry(order.agent.clone());
            known.or_insert_with(|| order.clone());
            format!("fake-{}", order.agent)
        })
    }

    async fn stop(&self, target: &Target) -> Result<(), ProviderError> {
        self.asked(|memory| {
            memory.machines.retain(|agent, _| {
                target.agent.as_ref() != Some(agent)
                    && target.machine.as_deref() != Some(&format!("fake-{agent}"))
            });
        })
    }
}
