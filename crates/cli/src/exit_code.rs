//! Documented exit codes.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Well.
    Ok,
    /// Something failed.
    Failure,
    /// The thing asked for does not exist.
    NotFound,
    /// No token, or one without the right.
    Auth,
    /// The build failed.
    BuildFailed,
    /// The build or deployment was cancelled.
    Cancelled,
    /// It took longer than asked for.
    TimedOut,
    /// The deployment was rolled back.
    RolledBack,
    /// The pipeline file has errors.
    Lint,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Failure => 1,
            Exit::NotFound => 3,
            Exit::Auth => 4,
            Exit::BuildFailed => 10,
            Exit::Cancelled => 11,
            Exit::TimedOut => 12,
            Exit::RolledBack => 13,
            Exit::Lint => 20,
        })
    }
}
