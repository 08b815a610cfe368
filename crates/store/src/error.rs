//! What can go wrong between a caller and the database.

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such row.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The precondition in the statement did not hold: somebody else was first.
    #[error("{0}")]
    Conflict(String),
    /// The database cannot be reached or cannot make it durable now.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// Only the leading dispatcher may write this, and this one does not lead (any more).
    #[error("another dispatcher leads")]
    NotLeader,
    /// A stored value does not read back; the detail names the column.
    #[error("a stored value is not readable: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// Whether asking again later may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::RowNotFound => Self::NotFound("row"),
            sqlx::Error::Database(db) if db.is_unique_violation() => {
                Self::Conflict(format!("already exists: {}", db.message()))
            }
            sqlx::Error::Database(db) if db.is_foreign_key_violation() => {
                Self::NotFound("referenced row")
            }
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::TypeNotFound { .. } => Self::Corrupt(error.to_string()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}
