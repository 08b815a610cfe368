//! A database as a release left it, and how it is recorded.

use sqlx::{AssertSqlSafe, Executor as _, Row as _, SqlitePool};

use crate::migrate::{POSTGRES, SQLITE};
use crate::{Db, Settings, StoreError};

/// What one installation alone can read, and what the migrations keep for themselves.
const NOT_RECORDED: [&str; 6] = [
    "_sqlx_migrations",
    "api_tokens",
    "authorities",
    "join_tokens",
    "peers",
    "secrets",
];

/// Makes the database as it was: the schema up to a migration, then these rows.
///
/// # Errors
/// What the engine says about them.
pub async fn as_left(settings: &Settings, schema: i64, rows: &str) -> Result<(), StoreError> {
    let failed =
        |e: sqlx::migrate::MigrateError| StoreError::Unavailable(format!("migration failed: {e}"));
    match settings {
        Settings::Sqlite(path) => {
            let options = sqlx::sqlite::SqliteConnectOptions::new()
                .filename(path)
                .create_if_missing(true);
            let pool = SqlitePool::connect_with(options).await?;
            SQLITE.run_to(schema, &pool).await.map_err(failed)?;
            pool.execute(AssertSqlSafe(rows.to_owned())).await?;
            pool.close().await;
        }
        Settings::Postgres(address) => {
            let pool = sqlx::PgPool::connect(address).await?;
            POSTGRES.run_to(schema, &pool).await.map_err(failed)?;
            pool.execute(AssertSqlSafe(in_postgres(rows))).await?;
            pool.close().await;
        }
    }
    Ok(())
}

/// Its bytes are written in another way.
fn in_postgres(rows: &str) -> String {
    let mut pieces = rows.split(", X'");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (bytes, rest) = piece.split_once('\'').unwrap_or((piece, ""));
        text.push_str(", '\\x");
        text.push_str(bytes);
        text.push('\'');
        text.push_str(rest);
    }
    text
}

/// The latest migration, and every row that another installation can read, as statements that both engines
/// execute. SQLite only.
///
/// # Errors
/// What the engine says.
pub async fn recorded(db: &Db) -> Result<(i64, String), StoreError> {
    let Db::Sqlite(db) = db else {
        return Err(StoreError::NotFound("a SQLite database"));
    };
    let schema = SQLITE.iter().map(|m| m.version).max().unwrap_or(0);
    let tables = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid";
    let mut text = String::new();
    for table in sqlx::raw_sql(tables).fetch_all(&db.read_pool).await? {
        let table: String = table.try_get(0)?;
        if NOT_RECORDED.contains(&table.as_str()) || table.starts_with("sqlite_") {
            continue;
        }
        let columns = format!("SELECT name FROM pragma_table_info('{table}')");
        let columns = sqlx::raw_sql(AssertSqlSafe(columns))
            .fetch_all(&db.read_pool)
            .await?;
        let columns: Result<Vec<String>, _> = columns.iter().map(|row| row.try_get(0)).collect();
        let columns = columns?;
        let values: Vec<String> = columns
            .iter()
            .map(|column| format!("', ' || quote({column})"))
            .collect();
        let rows = format!("SELECT {} FROM {table}", values.join(" || "));
        let rows = sqlx::raw_sql(AssertSqlSafe(rows))
            .fetch_all(&db.read_pool)
            .await?;
        if !rows.is_empty() {
            // What a migration put there.
            text.push_str(&format!("DELETE FROM {table};\n"));
        }
        for row in rows {
            let values: String = row.try_get(0)?;
            let values = values.trim_start_matches(", ");
            let columns = columns.join(", ");
            text.push_str(&format!(
                "INSERT INTO {table} ({columns})\nVALUES ({values});\n"
            ));
        }
    }
    Ok((schema, text))
}
