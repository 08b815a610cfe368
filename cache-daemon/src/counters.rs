//! What happened since the start, for `/metrics` and `slipway cache stats`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// The counters. A fault behaves like a miss, and is never counted as one.
#[derive(Clone, Default)]
pub struct Counters {
    /// Blobs that were asked for and here.
    pub hits: Counter,
    /// Blobs that were asked for and not here.
    pub misses: Counter,
    /// Blobs that were here and damaged.
    pub damaged: Counter,
    /// Files that left.
    pub evicted: Counter,
    /// Their bytes.
    pub evicted_bytes: Counter,
    /// Requests that were refused because nothing more fits.
    pub full: Counter,
    /// Bytes that came from other daemons.
    pub fetched_bytes: Counter,
    /// Bytes that went to other daemons.
    pub served_bytes: Counter,
    /// Layers that no other daemon gave in time.
    pub faults: Counter,
    /// Entries that tools of stages asked for and got.
    pub foreign_hits: Counter,
    /// Entries that tools of stages asked for and did not get.
    pub foreign_misses: Counter,
    /// Entries that tools of stages left.
    pub foreign_puts: Counter,
}

impl Counters {
    /// Makes them visible.
    pub fn register(&self, registry: &mut Registry) {
        let all = [
            ("hits", "Blobs asked for and here", &self.hits),
            ("misses", "Blobs asked for and not here", &self.misses),
            ("damaged", "Damaged files put aside", &self.damaged),
            ("evicted", "Files that left", &self.evicted),
            (
                "evicted_bytes",
                "Bytes of files that left",
                &self.evicted_bytes,
            ),
            (
                "fetched_bytes",
                "Bytes from other daemons",
                &self.fetched_bytes,
            ),
            ("served_bytes", "Bytes to other daemons", &self.served_bytes),
            (
                "faults",
                "Layers that no other daemon gave in time",
                &self.faults,
            ),
            ("full", "Requests refused for want of room", &self.full),
            (
                "foreign_hits",
                "Entries that tools of stages got",
                &self.foreign_hits,
            ),
            (
                "foreign_misses",
                "Entries that tools of stages asked for in vain",
                &self.foreign_misses,
            ),
            (
                "foreign_puts",
                "Entries that tools of stages left",
                &self.foreign_puts,
            ),
        ];
        for (name, help, counter) in all {
            let name = format!("slipway_cache_{name}");
            registry.register(name, help, counter.clone());
        }
    }
}
