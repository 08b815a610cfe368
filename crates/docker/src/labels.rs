//! The labels that everything we make carries, so that it is found again after a crash.

/// Which installation an object belongs to.
pub const INSTALL: &str = "slipway.install";
/// Which stage.
pub const STAGE: &str = "slipway.stage";
/// Which attempt of the stage.
pub const ATTEMPT: &str = "slipway.attempt";
/// What the object is for: `stage`, `service`, `network`, `instance` …
pub const PURPOSE: &str = "slipway.purpose";
