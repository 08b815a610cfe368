//! Which dispatcher leads: a lease on one row, judged by the database's clock, with an epoch that every
//! write of a leader checks (`writer`). On SQLite there is one dispatcher, which leads from its start.

use std::time::Duration;

use crate::db::Db;
use crate::error::StoreError;
use crate::sql::{args, sql, sql_pair};
use crate::writer::Standing;

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct LeaderRow {
    /// Raised at each takeover.
    pub epoch: i64,
    /// The dispatcher's id.
    pub holder: String,
    /// Where agents reach it.
    pub address: String,
    /// Until when, by the database's clock.
    pub expires_ms: i64,
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

impl Db {
    /// Takes the lead if nobody has it; answers with the new epoch.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn take_lead(
        &self,
        holder: &str,
        address: &str,
        ttl: Duration,
    ) -> Result<Option<i64>, StoreError> {
        self.alone(sql!("leaders/found"), args![]).await?;
        let statement = sql_pair!(self, "leaders/take");
        let args = args![holder, address, millis(ttl)];
        let taken: Option<LeaderRow> = self.row(statement, args).await?;
        Ok(taken.map(|row| row.epoch))
    }

    /// Stays leader; false when it is not any more.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn keep_lead(
        &self,
        epoch: i64,
        holder: &str,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let statement = sql_pair!(self, "leaders/renew");
        let args = args![epoch, holder, millis(ttl)];
        Ok(self.alone(statement, args).await? == 1)
    }

    /// Leads no more from now on, so that another need not wait.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn give_up_lead(&self, epoch: i64, holder: &str) -> Result<(), StoreError> {
        let args = args![epoch, holder];
        self.alone(sql!("leaders/resign"), args).await.map(|_| ())
    }

    /// Who leads now.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn leader(&self) -> Result<Option<LeaderRow>, StoreError> {
        let statement = sql_pair!(self, "leaders/get");
        self.row(statement, args![]).await
    }

    /// What this process may write from now on.
    pub fn stand(&self, standing: Standing) {
        self.writer().stand(standing);
    }
}
