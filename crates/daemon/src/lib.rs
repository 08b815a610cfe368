//! Starting, configuring, observing and stopping a process; the only home of the clock, of
//! randomness and of `tokio::spawn`.
//!
//! Knows nothing of builds, agents or rollouts. Imports `slipway-core` for one type, the
//! [`Timestamp`](slipway_core::time::Timestamp) that its clock hands out: converting at every call
//! would have been the alternative.

pub mod border;
pub mod clock;
pub mod config;
pub mod health;
pub mod listen;
pub mod resolver;
pub mod rng;
pub mod shutdown;
pub mod spawn;
pub mod start;
pub mod telemetry;

pub use clock::Clock;
pub use health::Health;
pub use resolver::Resolver;
pub use rng::Rng;
pub use shutdown::Shutdown;
pub use spawn::spawn;
pub use start::start;
