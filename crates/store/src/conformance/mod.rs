//! The suites that both engines must pass, a file per aggregate. Each function takes a fresh `Db`.

pub mod rollouts;
