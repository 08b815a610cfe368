//! Weights and fencing of one service's route.
//!
//! Owns what a traffic table may look like, which change of it is accepted, and which version the
//! next request goes to. Does not own sockets, health or rollouts. Invariant: an accepted table's
//! weights sum to 10 000 basis points, and every version with weight has an instance.

mod choice;
mod fence;
mod sticky;
mod table;
mod tripwire;

pub use choice::Turn;
pub use fence::{Fence, FenceAnswer, Seen, judge};
pub use sticky::{Stickiness, UnknownStickiness, point, second_half};
pub use table::{
    CanaryLease, FULL_BP, INSTANCES_MAX, Instance, Share, TableError, TrafficTable, VERSIONS_MAX,
};
pub use tripwire::{Seen as TripSeen, TRIP_WINDOW_MS, trips};
