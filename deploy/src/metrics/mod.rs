//! Where numbers of the user's own gates come from. One port, one file per kind.

pub mod fake;
mod prometheus;

use async_trait::async_trait;
pub use prometheus::{Prometheus, PrometheusPlace};

/// Why there is no number, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoNumber(pub String);

/// Something that measures.
#[async_trait]
pub trait MetricSource: Send + Sync {
    /// The number that `query` has now; what is not one finite number is none.
    async fn ask(&self, query: &str) -> Result<f64, NoNumber>;
}
