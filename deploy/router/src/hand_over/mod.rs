//! A newer process of this router takes the sockets over; no connection is refused or cut for it.
//!
//! The one that is there offers on `hand-over.sock` of its state folder. The one that comes asks for the
//! listening sockets (they are shared, so that nobody's connection waits or is lost), reads the state
//! file that the other has stopped writing, accepts, and says that it is ready. Then the other accepts
//! nothing more, answers what it has, tells its clients with each answer to connect anew, and says how much
//! it still has in flight to whoever drains. One that comes and dies before it is ready changes nothing.

mod line;
mod offer;
mod take;

use std::collections::BTreeMap;
use std::net::TcpListener;

use serde::{Deserialize, Serialize};

pub(crate) use self::offer::{Offer, offer};
pub(crate) use self::take::{Predecessor, take_over};

/// Below the state folder.
const SOCKET: &str = "hand-over.sock";
/// What both must speak.
const PROTOCOL: u32 = 1;
/// Sockets of one message.
const BATCH: usize = 64;

/// Listening sockets by their addresses.
pub(crate) type Handed = BTreeMap<String, TcpListener>;

/// From the one that comes.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
enum Ask {
    /// The sockets, from this place of their order on.
    Listeners { protocol: u32, from: usize },
    /// It accepts now.
    Ready,
    /// How much is in flight at a version.
    InFlight { service: String, version: String },
}

/// From the one that is there.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
enum Say {
    /// Addresses of the sockets that come with this message, and how many there are in all.
    Listeners { addresses: Vec<String>, of: usize },
    /// It accepts nothing more.
    Leaving,
    /// Requests in flight there.
    InFlight {
        service: String,
        version: String,
        requests: u64,
    },
    /// What was asked cannot be done.
    Refused { why: String },
}
