//! The threads of the data plane: one per core, each with its own reactor. A connection stays on the thread that it
//! was given, and so do its connections to instances: nothing of a request is passed between threads, and a
//! thread that waits is woken by the kernel alone.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use slipway_daemon::Shutdown;
use tokio::runtime::{Builder, Handle};

/// More threads than this are never started: each keeps idle connections of its own.
pub(super) const THREADS_MAX: usize = 64;

thread_local! {
    static LANE: Cell<usize> = const { Cell::new(0) };
}

/// Which thread of the data plane this is; 0 for any other thread.
pub(super) fn lane() -> usize {
    LANE.get()
}

/// The threads. They end when this is dropped.
pub(crate) struct Threads {
    all: Vec<Thread>,
    end: Shutdown,
}

struct Thread {
    handle: Handle,
    connections: Arc<AtomicUsize>,
}

/// A connection's place on a thread.
pub(super) struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Threads {
    /// Starts `count` threads; 0 = as many as there are cores.
    ///
    /// # Errors
    /// When the system gives no thread or no reactor.
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let count = if count == 0 { cores() } else { count };
        let end = Shutdown::new();
        let begin = |lane| Thread::start(lane, end.clone());
        let all: io::Result<Vec<Thread>> = (0..count.min(THREADS_MAX)).map(begin).collect();
        Ok(Self { all: all?, end })
    }

    /// Calls `begin` in the context of the thread with the fewest connections. What it opens and spawns is there.
    pub(super) fn place<T>(&self, begin: impl FnOnce(Seat) -> T) -> Option<T> {
        let load = |thread: &&Thread| thread.connections.load(Ordering::Relaxed);
        let thread = self.all.iter().min_by_key(load)?;
        thread.connections.fetch_add(1, Ordering::Relaxed);
        let _here = thread.handle.enter();
        Some(begin(Seat(Arc::clone(&thread.connections))))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.end.begin();
    }
}

impl Thread {
    fn start(lane: usize, end: Shutdown) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name(format!("traffic-{lane}"))
            .spawn(move || {
                LANE.set(lane);
                runtime.block_on(end.cancelled());
            })?;
        Ok(Self {
            handle,
            connections: Arc::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_go_to_the_emptiest_thread_and_their_tasks_run_there() {
        let threads = Threads::start(2).unwrap();
        let sit = |seat: Seat| {
            let lane = slipway_daemon::spawn("lane", async { lane() });
            (seat, lane)
        };
        let (first, lane_a) = threads.place(sit).unwrap();
        let (_second, lane_b) = threads.place(sit).unwrap();
        assert_eq!(lane_a.await.unwrap(), Some(0));
        assert_eq!(lane_b.await.unwrap(), Some(1));
        drop(first);
        let (_third, lane_c) = threads.place(sit).unwrap();
        assert_eq!(lane_c.await.unwrap(), Some(0));
    }
}
