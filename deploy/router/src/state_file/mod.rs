//! What the router knows about its services, kept over restarts.
//!
//! A whole copy (`state`) and a log of the changes since (`state.log`); of both the one before is kept
//! too. A change is one line of the log; what does not fit makes a new whole copy: temporary files,
//! fsync, renames, fsync of the folder. Everything is read with a checksum: a torn or truncated copy
//! falls back to the previous one, from which both logs lead to the same state, and none at all means
//! that requests get 503 with the reason.

mod log;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use slipway_core::digest::Digest;
use slipway_core::traffic::{Fence, Seen, TrafficTable};

use self::log::{Change, Log};

/// Larger is not ours.
const SIZE_MAX: u64 = 16 * 1024 * 1024;
const MAGIC: &str = "slipway-router-state-2";
/// Whole copies of before there was a log: without a sequence.
const MAGIC_1: &str = "slipway-router-state-1";

/// What is kept of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The highest token that any change carried, prepared or committed.
    pub(crate) token_floor: u64,
    /// The last committed change.
    pub(crate) seen: Option<Seen>,
    /// The table in use.
    pub(crate) active: Option<TrafficTable>,
    /// A table that was prepared and not committed.
    pub(crate) prepared: Option<(Fence, TrafficTable)>,
    /// A version that was taken out by this router. It gets no weight again.
    #[serde(default)]
    pub(crate) tripped: Option<Tripped>,
}

/// What was taken out, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tripped {
    pub(crate) version: String,
    pub(crate) reason: String,
}

/// Every service by name.
pub(crate) type State = BTreeMap<String, Kept>;

/// The files. One change at a time.
#[derive(Debug)]
pub(crate) struct StateFile {
    dir: PathBuf,
    /// Of the last change that is in the files.
    sequence: u64,
    /// Written to while it is known to be whole; without one the next change makes a whole copy.
    log: Option<Log>,
}

impl StateFile {
    /// In `dir`, which is created.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            sequence: 0,
            log: None,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The last good state; empty when there is none. The text says what was wrong on the way.
    pub(crate) fn load(&mut self) -> (State, Option<String>) {
        let mut troubles = Vec::new();
        let mut found = None;
        for name in ["state", "state.previous"] {
            match read(&self.path(name)) {
                Ok(Some(copy)) => {
                    found = Some(copy);
                    break;
                }
                Ok(None) => {}
                Err(why) => troubles.push(format!("{name}: {why}")),
            }
        }
        let (mut sequence, mut state) = found.unwrap_or_default();
        for name in ["state.log.previous", "state.log"] {
            let (changes, trouble) = log::read(&self.path(name));
            troubles.extend(trouble.map(|why| format!("{name}: {why}")));
            for (at, change) in changes {
                if at == sequence + 1 {
                    sequence = at;
                    state.insert(change.service, change.kept);
                } else if at > sequence {
                    troubles.push(format!(
                        "{name}: nothing leads from change {sequence} to {at}"
                    ));
                    break;
                }
            }
        }
        if let Some(why) = unusable(&state) {
            troubles.push(why);
            state.clear();
        }
        self.sequence = sequence;
        self.log = None;
        (state, (!troubles.is_empty()).then(|| troubles.join("; ")))
    }

    /// Makes durable what `state` says of the service `name` now; the others have not changed.
    ///
    /// After an error it is not known whether the change will be found at the next start.
    pub(crate) fn save(&mut self, name: &str, state: &State) -> io::Result<()> {
        self.sequence += 1;
        let change = Change {
            service: name.to_owned(),
            kept: state.get(name).cloned().unwrap_or_default(),
        };
        if let Some(mut log) = self.log.take()
            && log.append(self.sequence, &change)?
        {
            self.log = Some(log);
            return Ok(());
        }
        self.save_whole(state, &change)
    }

    fn save_whole(&mut self, state: &State, change: &Change) -> io::Result<()> {
        let json = serde_json::to_string(state).map_err(io::Error::other)?;
        let text = format!("{} {json}", self.sequence);
        let mut file = File::create(self.path("state.new"))?;
        writeln!(file, "{MAGIC} {}", Digest::of(text.as_bytes()))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        let mut log = Log::create(&self.path("state.log.new"))?;
        // It is in the whole copy; who has to begin with the previous one needs it here. One that does
        // not fit is larger than any log.
        let _fits = log.append(self.sequence, change)?;
        // At any instant the files lead to the newest state: the previous copy with both logs, or
        // the new one with an empty log.
        self.rename("state", "state.previous")?;
        self.rename("state.log", "state.log.previous")?;
        self.rename("state.log.new", "state.log")?;
        self.rename("state.new", "state")?;
        File::open(&self.dir)?.sync_all()?;
        self.log = Some(log);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        match std::fs::rename(self.path(from), self.path(to)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Why a state must not be used.
fn unusable(state: &State) -> Option<String> {
    state.iter().find_map(|(name, kept)| {
        let table = kept.active.as_ref()?;
        let error = table.check().err()?;
        Some(format!("service {name}: {error}"))
    })
}

/// A whole copy with the sequence of its last change.
fn read(path: &Path) -> Result<Option<(u64, State)>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut text = String::new();
    let read = file
        .take(SIZE_MAX)
        .read_to_string(&mut text)
        .map_err(|e| e.to_string())?;
    let (head, text) = text.split_once('\n').ok_or("truncated")?;
    let (magic, sum) = head.split_once(' ').ok_or("not a state file")?;
    if ![MAGIC, MAGIC_1].contains(&magic) {
        return Err("not a state file".to_owned());
    }
    if sum != Digest::of(text.as_bytes()).to_string() {
        return Err(format!(
            "damaged: the checksum does not fit its {read} bytes"
        ));
    }
    let (sequence, json) = match magic {
        MAGIC_1 => ("0", text),
        _ => text.split_once(' ').ok_or("not a state file")?,
    };
    let sequence = sequence.parse().map_err(|_| "not a sequence")?;
    let state: State = serde_json::from_str(json).map_err(|e| e.to_string())?;
    match unusable(&state) {
        Some(why) => Err(why),
        None => Ok(Some((sequence, state))),
    }
}

#[cfg(test)]
mod tests;
