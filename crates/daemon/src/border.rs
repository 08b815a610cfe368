//! The borders of durable work: where a process that dies leaves something half done.
//!
//! A debug build dies at the border that `SLIPWAY_CRASH_AT` names, `after intent route#2` being the second
//! time that it gets there; it freezes at the one that `SLIPWAY_STOP_AT` names, until somebody lets it go on
//! (SIGCONT). `SLIPWAY_BORDERS` is a file that gets every border's name on a line. A release build does none of
//! it: the calls compile to nothing. Tests enumerate the borders of a deployment that way and kill or freeze the
//! coordinator at each; what must hold afterwards is theirs to say.

/// This border is reached: `what` is about to happen, or just did, to `to`.
#[inline]
pub fn reach(what: &'static str, to: &str) {
    #[cfg(debug_assertions)]
    watched::reach(what, to);
    #[cfg(not(debug_assertions))]
    let _unwatched = (what, to);
}

#[cfg(debug_assertions)]
mod watched {
    use std::collections::BTreeMap;
    use std::io::Write as _;
    use std::path::PathBuf;
    use std::sync::{Mutex, OnceLock, PoisonError};

    /// What the environment asks for, read once.
    struct Asked {
        crash_at: Option<String>,
        stop_at: Option<String>,
        names: Option<PathBuf>,
        reached: Mutex<BTreeMap<String, u32>>,
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a fault for tests is no setting: no configuration file may ask for it"
    )]
    fn asked() -> &'static Asked {
        static ASKED: OnceLock<Asked> = OnceLock::new();
        ASKED.get_or_init(|| Asked {
            crash_at: std::env::var("SLIPWAY_CRASH_AT").ok(),
            stop_at: std::env::var("SLIPWAY_STOP_AT").ok(),
            names: std::env::var("SLIPWAY_BORDERS").ok().map(PathBuf::from),
            reached: Mutex::default(),
        })
    }

    pub(super) fn reach(what: &str, to: &str) {
        let asked = asked();
        if asked.crash_at.is_none() && asked.stop_at.is_none() && asked.names.is_none() {
            return;
        }
        let name = format!("{what} {to}");
        let mut reached = asked.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let times = reached.entry(name.clone()).or_default();
        *times += 1;
        let name = format!("{name}#{times}");
        if let Some(path) = &asked.names {
            let file = std::fs::File::options()
                .create(true)
                .append(true)
                .open(path);
            // A test misses what could not be written.
            let _unwritable = file.and_then(|mut file| writeln!(file, "{name}"));
        }
        if asked.crash_at.as_ref() == Some(&name) {
            // Like `kill -9`: no destructor, no flush, no goodbye on any connection.
            std::process::abort();
        }
        if asked.stop_at.as_ref() == Some(&name) {
            // All threads stop with it, and go on from here.
            let _frozen = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::STOP,
            );
            // It is for the process: another thread may have to take it, and until it has, this one would run on.
            while stop_is_pending() {
                std::thread::yield_now();
            }
        }
    }

    /// Whether no thread has taken a SIGSTOP yet that was sent to this process (proc(5), `ShdPnd`).
    fn stop_is_pending() -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let pending = status
            .lines()
            .find_map(|line| line.strip_prefix("ShdPnd:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        let stop = 1 << (rustix::process::Signal::STOP.as_raw() - 1);
        pending.is_some_and(|mask| mask & stop != 0)
    }
}
