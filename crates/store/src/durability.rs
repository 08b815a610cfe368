//! Is an acknowledged commit safe from the loss of a machine? Only then is an installation called highly
//! available.

use crate::db::Db;
use crate::error::StoreError;
use crate::sql::sql;

#[derive(sqlx::FromRow)]
struct Found {
    setting: String,
}

#[derive(sqlx::FromRow)]
struct Count {
    found: i64,
}

impl Db {
    /// What stands between a commit and a second machine; empty = a commit is durable on two.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn not_durable(&self) -> Result<Vec<String>, StoreError> {
        let Self::Postgres(db) = self else {
            return Ok(vec![
                "the database is SQLite, which is on one machine; use PostgreSQL".to_owned(),
            ]);
        };
        let ask = |statement: &'static str| async move {
            let found: Result<Found, sqlx::Error> =
                sqlx::query_as(statement).fetch_one(&db.pool).await;
            found.map(|row| row.setting)
        };
        let mut missing = Vec::new();
        let commit = ask(sql!("durability/commit.postgres")).await?;
        if commit != "on" && commit != "remote_apply" {
            missing.push(format!(
                "`synchronous_commit` is `{commit}`; set it to `on` or `remote_apply`"
            ));
        }
        let names = ask(sql!("durability/standbys.postgres")).await?;
        if names.trim().is_empty() {
            missing.push(
                "`synchronous_standby_names` is empty: no standby confirms a commit; name one"
                    .to_owned(),
            );
        }
        let statement = sql!("durability/confirmed.postgres");
        let count: Count = sqlx::query_as(statement).fetch_one(&db.pool).await?;
        if count.found == 0 {
            missing.push("no synchronous standby is connected".to_owned());
        }
        Ok(missing)
    }
}
