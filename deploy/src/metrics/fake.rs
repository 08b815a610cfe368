//! A source in memory, for tests.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::{MetricSource, NoNumber};

/// Answers what it was told, by query.
#[derive(Debug, Default)]
pub struct FakeMetrics {
    known: Mutex<BTreeMap<String, f64>>,
}

impl FakeMetrics {
    /// From now on `query` has this number; `None` = it has none.
    pub fn set(&self, query: &str, value: Option<f64>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match value {
            Some(value) => known.insert(query.to_owned(), value),
            None => known.remove(query),
        };
    }
}

#[async_trait]
impl MetricSource for FakeMetrics {
    async fn ask(&self, query: &str) -> Result<f64, NoNumber> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let value = known.get(query).copied();
        value.ok_or_else(|| NoNumber("the query gave no series".to_owned()))
    }
}
