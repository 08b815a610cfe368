//! What every provider must do: one suite, executed on the fake and on each real adapter.

use std::time::Duration;

use slipway_core::fleet::{Listed, PoolSettings, Provider};
use slipway_core::id::AgentId;

use super::{AgentSettings, FleetProvider, Order, Target};
use crate::config::FleetConfig;

/// A real machine takes its time to be seen.
const SEEN: Duration = Duration::from_secs(60);

/// An order for agent number `n` of pool `contract`.
///
/// # Panics
/// Never: the id is one.
#[must_use]
pub fn order(config: &FleetConfig, n: u32) -> Order {
    let agent: AgentId = match format!("01ARZ3NDEKTSV4RRFF{n:08}").parse() {
        Ok(agent) => agent,
        Err(error) => unreachable!("{error}"),
    };
    let settings = PoolSettings {
        provider: Provider::Process {},
        labels: std::collections::BTreeMap::new(),
        slots: 1,
        min: 0,
        max: 2,
        reserve: 0,
        order: 0,
        idle_seconds: 600,
        boot_seconds: 600,
        down_period_seconds: 60,
        max_agent_hours: None,
        schedule: Vec::new(),
    };
    // Nobody answers for it: what is started waits for its dispatcher.
    let token = format!("slpj_secret.{}", "0".repeat(64));
    Order {
        settings: AgentSettings::of(config, "contract", &settings, &agent, &token),
        agent,
        pool: "contract".to_owned(),
    }
}

async fn of(provider: &dyn FleetProvider, agent: &AgentId) -> Vec<Listed> {
    let listing = match provider.list().await {
        Ok(listing) => listing,
        Err(error) => panic!("it does not list: {error}"),
    };
    assert!(listing.complete, "it lists everything");
    let all = listing.machines.into_iter();
    all.filter(|m| m.agent.as_ref() == Some(agent) && m.running)
        .collect()
}

async fn count_is(provider: &dyn FleetProvider, agent: &AgentId, count: usize) {
    let reached = tokio::time::timeout(SEEN, async {
        while of(provider, agent).await.len() != count {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(reached.await.is_ok(), "never {count} machines of {agent}");
}

/// Starts, lists and stops: each once, each twice. `again` is a second adapter over the same machines,
/// as after a restart.
///
/// # Panics
/// When the provider breaks the contract.
pub async fn keeps_the_contract(
    provider: &dyn FleetProvider,
    again: &dyn FleetProvider,
    config: &FleetConfig,
) {
    let (one, two) = (order(config, 1), order(config, 2));
    assert!(of(provider, &one.agent).await.is_empty(), "it begins empty");
    let start =
        async |provider: &dyn FleetProvider, order: &Order| match provider.start(order).await {
            Ok(machine) => machine,
            Err(error) => panic!("it does not start: {error}"),
        };
    let machine = start(provider, &one).await;
    assert!(!machine.is_empty() && machine.len() <= 500);
    count_is(provider, &one.agent, 1).await;
    assert_eq!(
        start(provider, &one).await,
        machine,
        "the same agent, the same machine"
    );
    assert_eq!(start(again, &one).await, machine, "after a restart too");
    count_is(again, &one.agent, 1).await;
    let other = start(provider, &two).await;
    assert_ne!(other, machine, "another agent, another machine");
    count_is(provider, &two.agent, 1).await;

    let by_both = Target {
        agent: Some(one.agent.clone()),
        machine: Some(machine),
    };
    for provider in [again, provider] {
        if let Err(error) = provider.stop(&by_both).await {
            panic!("it does not stop, or not twice: {error}");
        }
    }
    count_is(provider, &one.agent, 0).await;
    count_is(provider, &two.agent, 1).await;
    // The answer that named it was lost: the agent is enough.
    let by_agent = Target {
        agent: Some(two.agent.clone()),
        machine: None,
    };
    if let Err(error) = provider.stop(&by_agent).await {
        panic!("it does not stop by its agent: {error}");
    }
    count_is(provider, &two.agent, 0).await;
}
