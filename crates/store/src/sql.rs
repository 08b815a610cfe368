//! Statements and their arguments, for either engine.
//!
//! A statement is a file below `queries/`, embedded; the same text for both engines (`$n` is
//! understood by both drivers), or a pair whose first line says why. A test prepares every file on the
//! engines that it is for.

use slipway_core::time::Timestamp;
use sqlx::postgres::PgArguments;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments as _, FromRow};

/// Embeds `queries/<name>.sql`.
macro_rules! sql {
    ($name:literal) => {
        include_str!(concat!("queries/", $name, ".sql"))
    };
}
pub(crate) use sql;

/// Embeds `queries/<name>.sqlite.sql` and `queries/<name>.postgres.sql`, and takes the one of `$db`.
macro_rules! sql_pair {
    ($db:expr, $name:literal) => {
        match $db {
            $crate::db::Db::Sqlite(_) => {
                include_str!(concat!("queries/", $name, ".sqlite.sql"))
            }
            $crate::db::Db::Postgres(_) => {
                include_str!(concat!("queries/", $name, ".postgres.sql"))
            }
        }
    };
}
pub(crate) use sql_pair;

/// Collects arguments.
macro_rules! args {
    ($($arg:expr),* $(,)?) => { vec![$($crate::sql::Arg::from($arg)),*] };
}
pub(crate) use args;

/// One bound value. The four kinds are all the column types there are.
#[derive(Clone, Debug)]
pub enum Arg {
    /// TEXT.
    Text(Option<String>),
    /// BIGINT.
    Int(Option<i64>),
    /// DOUBLE PRECISION.
    Real(Option<f64>),
    /// BLOB or BYTEA.
    Bytes(Option<Vec<u8>>),
}

macro_rules! from {
    ($($type:ty => $value:ident: $arg:expr),* $(,)?) => {
        $(impl From<$type> for Arg { fn from($value: $type) -> Self { $arg } })*
    };
}
from! {
    &str => v: Self::Text(Some(v.to_owned())),
    &String => v: Self::Text(Some(v.clone())),
    String => v: Self::Text(Some(v)),
    Option<String> => v: Self::Text(v),
    Option<&str> => v: Self::Text(v.map(str::to_owned)),
    i64 => v: Self::Int(Some(v)),
    Option<i64> => v: Self::Int(v),
    u32 => v: Self::Int(Some(i64::from(v))),
    bool => v: Self::Int(Some(i64::from(v))),
    f64 => v: Self::Real(Some(v)),
    Option<f64> => v: Self::Real(v),
    Vec<u8> => v: Self::Bytes(Some(v)),
    Option<Vec<u8>> => v: Self::Bytes(v),
    Timestamp => v: Self::Int(Some(v.as_millis())),
    Option<Timestamp> => v: Self::Int(v.map(Timestamp::as_millis)),
}

/// A row struct that both engines can fill.
pub trait Rows:
    for<'r> FromRow<'r, sqlx::sqlite::SqliteRow>
    + for<'r> FromRow<'r, sqlx::postgres::PgRow>
    + Send
    + Unpin
{
}
impl<T> Rows for T where
    T: for<'r> FromRow<'r, sqlx::sqlite::SqliteRow>
        + for<'r> FromRow<'r, sqlx::postgres::PgRow>
        + Send
        + Unpin
{
}

pub(crate) fn sqlite(args: Vec<Arg>) -> Result<SqliteArguments, sqlx::Error> {
    let mut out = SqliteArguments::default();
    for arg in args {
        match arg {
            Arg::Text(v) => out.add(v),
            Arg::Int(v) => out.add(v),
            Arg::Real(v) => out.add(v),
            Arg::Bytes(v) => out.add(v),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(out)
}

pub(crate) fn postgres(args: Vec<Arg>) -> Result<PgArguments, sqlx::Error> {
    let mut out = PgArguments::default();
    for arg in args {
        match arg {
            Arg::Text(v) => out.add(v),
            Arg::Int(v) => out.add(v),
            Arg::Real(v) => out.add(v),
            Arg::Bytes(v) => out.add(v),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(out)
}
