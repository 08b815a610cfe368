//! How much memory a container uses.

use bollard::models::ContainerMemoryStats;
use bollard::query_parameters::StatsOptionsBuilder;
use futures::StreamExt as _;

use crate::engine::{SHORT, within};
use crate::{DockerError, Engine};

impl Engine {
    /// Bytes in use that the kernel could not give back at once: pages of files that nobody used lately are
    /// left out. `None` where the engine does not say, as for a container that does not execute.
    ///
    /// # Errors
    /// `NotFound` when there is no such container.
    pub async fn memory_used(&self, id: &str) -> Result<Option<u64>, DockerError> {
        let once = StatsOptionsBuilder::default().stream(false).one_shot(true);
        let mut answers = Box::pin(self.docker.stats(id, Some(once.build())));
        let first = async { answers.next().await.transpose() };
        let stats = within("container stats", SHORT, first).await?;
        Ok(stats
            .and_then(|stats| stats.memory_stats)
            .and_then(|memory| used(&memory)))
    }
}

fn used(memory: &ContainerMemoryStats) -> Option<u64> {
    let named = |name: &str| memory.stats.as_ref().and_then(|all| all.get(name)).copied();
    // The first is what version 1 of control groups calls the sum over children.
    let idle = named("total_inactive_file").or_else(|| named("inactive_file"));
    let usage = memory.usage.filter(|usage| *usage > 0)?;
    Some(usage.saturating_sub(idle.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(usage: Option<u64>, idle: &[(&str, u64)]) -> ContainerMemoryStats {
        ContainerMemoryStats {
            usage,
            stats: Some(idle.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect()),
            ..ContainerMemoryStats::default()
        }
    }

    #[test]
    fn pages_that_can_be_given_back_do_not_count() {
        assert_eq!(used(&stats(Some(100), &[("inactive_file", 30)])), Some(70));
        let old = [("inactive_file", 1), ("total_inactive_file", 40)];
        assert_eq!(used(&stats(Some(100), &old)), Some(60));
        assert_eq!(used(&stats(Some(100), &[("inactive_file", 200)])), Some(0));
        assert_eq!(used(&stats(Some(0), &[])), None);
        assert_eq!(used(&stats(None, &[])), None);
    }
}
