//! One router per host: prepared on all, then committed on all, read back from all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use slipway_core::gate::Counts;
use slipway_core::rollout::{HostView, agreed, host_of, table_of, unheard};
use slipway_core::traffic::{Fence, TrafficTable};

use super::{Hosts, Side};
use crate::traffic::{Part, Reading, Traffic, TrafficError};

/// Several routers.
pub struct SeveralRouters(pub Arc<Hosts>);

type Tables = BTreeMap<usize, TrafficTable>;

impl SeveralRouters {
    /// Notes whether router `index` answered.
    fn heard<T>(&self, index: usize, answer: Result<T, TrafficError>) -> Result<T, TrafficError> {
        let trouble = match &answer {
            Err(TrafficError::Unknown(why)) => Some(why.clone()),
            _ => None,
        };
        self.0.note(index, Side::Router, trouble);
        answer.map_err(|error| named(error, &self.0.all[index].name))
    }

    async fn asked<T>(
        &self,
        index: usize,
        asking: impl Future<Output = Result<T, TrafficError>>,
    ) -> Result<T, TrafficError> {
        let limit = self.0.limit(index, Side::Router);
        let late = |_| Err(TrafficError::Unknown(format!("no answer within {limit:?}")));
        let answer = tokio::time::timeout(limit, asking)
            .await
            .unwrap_or_else(late);
        self.heard(index, answer)
    }

    async fn readings(&self, service: &str) -> Vec<(usize, Result<Reading, TrafficError>)> {
        let ask = |index: usize| self.asked(index, self.0.all[index].router.read(service));
        self.0.each(self.0.indices(), ask).await
    }

    /// Each router's own table, of those that answer. Silent ones that are still waited for are an error.
    async fn tables(&self, table: &TrafficTable, going_back: bool) -> Result<Tables, TrafficError> {
        let readings = self.readings(&table.service).await;
        if let Some(why) = unheard(&self.0.views(), going_back) {
            return Err(TrafficError::Unknown(why));
        }
        let mut tables = Tables::new();
        for (index, reading) in readings {
            let host = &self.0.all[index];
            let current = match reading {
                Ok(reading) => reading.table,
                Err(TrafficError::Unknown(_)) => continue,
                Err(error) => return Err(error),
            };
            let Some(mut own) = table_of(&host.name, table, current.as_ref()) else {
                continue;
            };
            if !host.listen.is_empty() {
                own.listen.clone_from(&host.listen);
            }
            own.check()
                .map_err(|e| TrafficError::Refused(format!("host {}: {e}", host.name)))?;
            tables.insert(index, own);
        }
        if tables.is_empty() {
            return Err(TrafficError::Unknown(
                "no host has an instance to send anything to".to_owned(),
            ));
        }
        Ok(tables)
    }

    async fn prepare_all(&self, fence: Fence, tables: &Tables) -> Result<(), TrafficError> {
        let one = |index: usize| {
            let table = &tables[&index];
            self.asked(index, self.0.all[index].router.prepare(fence, table))
        };
        first_error(self.0.each(tables.keys().copied(), one).await)
    }

    async fn commit_all(
        &self,
        fence: Fence,
        tables: &Tables,
    ) -> Vec<(usize, Result<(), TrafficError>)> {
        let one = |index: usize| {
            let table = &tables[&index];
            self.asked(index, self.0.all[index].router.commit(fence, table))
        };
        self.0.each(tables.keys().copied(), one).await
    }

    fn names(&self, which: impl Iterator<Item = usize>) -> String {
        let names: Vec<&str> = which.map(|index| self.0.all[index].name.as_str()).collect();
        names.join(", ")
    }
}

fn named(error: TrafficError, host: &str) -> TrafficError {
    match error {
        TrafficError::Refused(why) => TrafficError::Refused(format!("host {host}: {why}")),
        TrafficError::Unknown(why) => TrafficError::Unknown(format!("host {host}: {why}")),
        other => other,
    }
}

/// A newer owner first: it says more than who was refused or silent.
fn first_error<T>(answers: Vec<(usize, Result<T, TrafficError>)>) -> Result<(), TrafficError> {
    let mut first = None;
    for (_, answer) in answers {
        match answer {
            Err(error @ TrafficError::StaleToken { .. }) => return Err(error),
            Err(error) => first = first.or(Some(error)),
            Ok(_) => {}
        }
    }
    first.map_or(Ok(()), Err)
}

#[async_trait]
impl Traffic for SeveralRouters {
    /// Prepared everywhere, or nothing happened; then committed everywhere at once.
    async fn apply(&self, fence: Fence, table: &TrafficTable) -> Result<(), TrafficError> {
        table
            .check()
            .map_err(|e| TrafficError::Refused(e.to_string()))?;
        let tables = self.tables(table, false).await?;
        self.prepare_all(fence, &tables).await?;
        slipway_daemon::border::reach("prepared", "route");
        let answers = self.commit_all(fence, &tables).await;
        let stale = answers
            .iter()
            .any(|(_, one)| matches!(one, Err(TrafficError::StaleToken { .. })));
        let done: Vec<usize> = answers
            .iter()
            .filter(|(_, one)| one.is_ok())
            .map(|(index, _)| *index)
            .collect();
        if done.is_empty() || stale || done.len() == answers.len() {
            return first_error(answers);
        }
        let failed = self.names(
            answers
                .iter()
                .filter(|(_, one)| one.is_err())
                .map(|(index, _)| *index),
        );
        let done = self.names(done.into_iter());
        let why = first_error(answers)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        Err(TrafficError::Partial(format!(
            "the routers of {done} took the new table, and those of {failed} did not ({why}): all go back to stable"
        )))
    }

    /// Each on its own: stable is right wherever it arrives, and who says nothing is not waited for.
    async fn take_back(&self, fence: Fence, table: &TrafficTable) -> Result<(), TrafficError> {
        table
            .check()
            .map_err(|e| TrafficError::Refused(e.to_string()))?;
        let tables = self.tables(table, true).await?;
        let one = |index: usize| {
            let table = &tables[&index];
            self.asked(index, self.0.all[index].router.take_back(fence, table))
        };
        first_error(self.0.each(tables.keys().copied(), one).await)
    }

    async fn read(&self, service: &str) -> Result<Reading, TrafficError> {
        let (mut answers, mut parts, mut tripped, mut last) =
            (BTreeMap::new(), BTreeMap::new(), None, None);
        for (index, reading) in self.readings(service).await {
            let name = &self.0.all[index].name;
            match reading {
                Ok(reading) => {
                    answers.insert(name.clone(), (reading.fence, reading.table));
                    let (boot_id, counters) = (reading.boot_id, reading.counters);
                    parts.insert(name.clone(), Part { boot_id, counters });
                    let why = reading
                        .tripped
                        .map(|(version, why)| (version, format!("host {name}: {why}")));
                    tripped = tripped.or(why);
                }
                Err(error) => last = Some(error),
            }
        }
        if let (true, Some(error)) = (answers.is_empty(), last) {
            return Err(error);
        }
        let mut counters: BTreeMap<String, Counts> = BTreeMap::new();
        for (version, counts) in parts.values().flat_map(|part| &part.counters) {
            let sum = counters.entry(version.clone()).or_default();
            *sum = sum.and(counts);
        }
        // A host that has nothing yet is no disagreement: it has no table at all.
        answers.retain(|_, (_, table)| table.is_some());
        let agreed = agreed(&answers);
        Ok(Reading {
            fence: agreed.fence,
            table: agreed.table,
            boot_id: String::new(),
            counters,
            tripped,
            apart: agreed.apart,
            parts,
        })
    }

    async fn renew(&self, fence: Fence, service: &str) -> Result<(), TrafficError> {
        let one = |index: usize| self.asked(index, self.0.all[index].router.renew(fence, service));
        first_error(self.0.each(self.0.indices(), one).await)
    }

    async fn drain(
        &self,
        service: &str,
        version: &str,
        deadline: Duration,
    ) -> Result<u32, TrafficError> {
        let one = |index: usize| async move {
            if self.0.is_silent(index, Side::Router) {
                return Ok(0);
            }
            let router = &self.0.all[index].router;
            // A router without the service has nothing of it in flight.
            if self
                .asked(index, router.read(service))
                .await?
                .table
                .is_none()
            {
                return Ok(0);
            }
            let answer = router.drain(service, version, deadline).await;
            self.heard(index, answer)
        };
        let answers = self.0.each(self.0.indices(), one).await;
        let cut = answers.iter().filter_map(|(_, one)| one.as_ref().ok());
        let cut = cut.fold(0_u32, |sum, cut| sum.saturating_add(*cut));
        first_error(answers).map(|()| cut)
    }

    async fn tables(&self) -> Result<Vec<TrafficTable>, TrafficError> {
        let one = |index: usize| self.asked(index, self.0.all[index].router.tables());
        let mut all = Vec::new();
        for (_, tables) in self.0.each(self.0.indices(), one).await {
            all.extend(tables?);
        }
        Ok(all)
    }

    async fn ask(
        &self,
        id: &str,
        address: &str,
        path: &str,
        limit: Duration,
    ) -> Option<Result<(u16, Vec<u8>), String>> {
        let host = host_of(id).1?;
        let index = self.0.all.iter().position(|one| one.name == host)?;
        self.0.all[index].router.ask(id, address, path, limit).await
    }

    fn hosts(&self) -> Vec<HostView> {
        self.0.views()
    }
}
