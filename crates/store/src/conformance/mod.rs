//! The suites that both engines must pass, a file per aggregate. Each function takes a fresh `Db`.

pub mod access;
pub mod audit;
pub mod fleet;
pub mod inbox;
pub mod left;
pub mod locks;
pub mod memo;
pub mod queue;
pub mod results;
pub mod rollouts;
mod sample;
pub mod together;

use sqlx::{AssertSqlSafe, Executor as _, SqlSafeStr as _};

use crate::{Db, StoreError};

/// Lets the engine read a statement without executing it.
///
/// # Errors
/// What the engine says about it.
pub async fn prepare(db: &Db, statement: &str) -> Result<(), StoreError> {
    let text = AssertSqlSafe(statement.to_owned()).into_sql_str();
    match db {
        Db::Sqlite(db) => db
            .read_pool
            .acquire()
            .await?
            .prepare(text)
            .await
            .map(drop)?,
        Db::Postgres(db) => db.pool.acquire().await?.prepare(text).await.map(drop)?,
    }
    Ok(())
}

/// Does behind the store's back what somebody with the database's password could do.
///
/// # Errors
/// What the engine says about it.
pub async fn tamper(db: &Db, statement: &str) -> Result<(), StoreError> {
    let text = AssertSqlSafe(statement.to_owned()).into_sql_str();
    match db {
        Db::Sqlite(db) => db
            .write_pool
            .acquire()
            .await?
            .execute(text)
            .await
            .map(drop)?,
        Db::Postgres(db) => db.pool.acquire().await?.execute(text).await.map(drop)?,
    }
    Ok(())
}

/// One value of the engine's own settings, as text.
///
/// # Errors
/// What the engine says about it.
pub async fn setting(db: &Db, name: &str) -> Result<String, StoreError> {
    let pragma = AssertSqlSafe(format!("PRAGMA {name}")).into_sql_str();
    let show = AssertSqlSafe(format!("SHOW {name}")).into_sql_str();
    Ok(match db {
        Db::Sqlite(db) => {
            let mut writer = db.write_pool.acquire().await?;
            let row = writer.fetch_one(pragma).await?;
            let number: Result<i64, _> = sqlx::Row::try_get(&row, 0);
            match number {
                Ok(number) => number.to_string(),
                Err(_) => sqlx::Row::try_get(&row, 0)?,
            }
        }
        Db::Postgres(db) => {
            let row = db.pool.acquire().await?.fetch_one(show).await?;
            sqlx::Row::try_get(&row, 0)?
        }
    })
}
