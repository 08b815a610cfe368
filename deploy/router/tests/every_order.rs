//! Every order in which two or three threads can count requests, switch and drain: nobody is at an instance that was
//! stopped after its drain.

#[path = "../src/in_flight.rs"]
mod in_flight;

/// The same names, watched by the checker.
mod atomics {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
}

use atomics::{AtomicBool, Ordering};
use in_flight::InFlight;
use loom::sync::Arc;
use loom::thread;

/// A version and its instance.
struct Version {
    in_flight: InFlight,
    stopped: AtomicBool,
}

impl Version {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            in_flight: InFlight::default(),
            stopped: AtomicBool::new(false),
        })
    }

    /// A request: sent only when it was let in.
    fn ask(&self) -> bool {
        let let_in = self.in_flight.enter();
        if let_in {
            let stopped = self.stopped.load(Ordering::Acquire);
            assert!(!stopped, "a request reached an instance that was stopped");
        }
        self.in_flight.leave();
        let_in
    }

    /// Drained, and stopped if that is what the count allows.
    fn drain_and_stop(&self) -> bool {
        self.in_flight.drain(true);
        let empty = self.in_flight.count() == 0;
        if empty {
            self.stopped.store(true, Ordering::Release);
        }
        empty
    }
}

#[test]
fn in_every_order_a_request_is_seen_by_the_drain_or_sees_it() {
    loom::model(|| {
        let version = Version::new();
        let asking: Vec<_> = (0..2)
            .map(|_| {
                let version = Arc::clone(&version);
                thread::spawn(move || version.ask())
            })
            .collect();
        version.drain_and_stop();
        for one in asking {
            one.join().unwrap();
        }
        assert_eq!(version.in_flight.count(), 0);
    });
}

#[test]
fn in_every_order_the_last_one_out_says_so_and_nobody_comes_after_the_drain() {
    loom::model(|| {
        let version = Version::new();
        let other = Arc::clone(&version);
        let asking = thread::spawn(move || {
            let let_in = other.in_flight.enter();
            (let_in, other.in_flight.leave())
        });
        version.in_flight.drain(true);
        let seen = version.in_flight.count();
        let (let_in, last) = asking.join().unwrap();
        // Whoever was waited for tells when it is gone.
        assert!(seen == 0 || last);
        assert!(let_in || version.in_flight.is_draining());
        assert!(!version.ask(), "it was let in after the drain");
    });
}
