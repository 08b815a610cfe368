//! What the router knows about its services, kept over restarts.
//!
//! Written whole: a temporary file, fsync, the present copy becomes the previous one, rename, fsync
//! of the folder. Read with a checksum: a torn or truncated copy falls back to the previous one, and
//! none at all means that requests get 503 with the reason.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use slipway_core::digest::Digest;
use slipway_core::traffic::{Fence, Seen, TrafficTable};

/// Larger is not ours.
const SIZE_MAX: u64 = 16 * 1024 * 1024;
const MAGIC: &str = "slipway-router-state-1";

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

/// The file and its previous copy.
#[derive(Clone, Debug)]
pub(crate) struct StateFile {
    dir: PathBuf,
}

impl StateFile {
    /// In `dir`, which is created.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The last good copy; empty when there is none. The text says what was wrong on the way.
    pub(crate) fn load(&self) -> (State, Option<String>) {
        let mut trouble = None;
        for name in ["state", "state.previous"] {
            match read(&self.path(name)) {
                Ok(Some(state)) => return (state, trouble),
                Ok(None) => {}
                Err(why) => {
                    trouble = Some(format!("{name}: {why}"));
                }
            }
        }
        (State::new(), trouble)
    }

    /// Makes `state` durable.
    pub(crate) fn save(&self, state: &State) -> io::Result<()> {
        let json = serde_json::to_vec(state).map_err(io::Error::other)?;
        let temporary = self.path("state.new");
        let mut file = File::create(&temporary)?;
        file.write_all(format!("{MAGIC} {}\n", Digest::of(&json)).as_bytes())?;
        file.write_all(&json)?;
        file.sync_all()?;
        match std::fs::rename(self.path("state"), self.path("state.previous")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::rename(&temporary, self.path("state"))?;
        File::open(&self.dir)?.sync_all()
    }
}

fn read(path: &Path) -> Result<Option<State>, String> {
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
    let (head, json) = text.split_once('\n').ok_or("truncated")?;
    let sum = head
        .strip_prefix(MAGIC)
        .map(str::trim)
        .ok_or("not a state file")?;
    if sum != Digest::of(json.as_bytes()).to_string() {
        return Err(format!(
            "damaged: the checksum does not fit its {read} bytes"
        ));
    }
    let state: State = serde_json::from_str(json).map_err(|e| e.to_string())?;
    for (name, kept) in &state {
        if let Some(table) = &kept.active {
            table.check().map_err(|e| format!("service {name}: {e}"))?;
        }
    }
    Ok(Some(state))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(token_floor: u64) -> State {
        State::from([(
            "shop".to_owned(),
            Kept {
                token_floor,
                ..Kept::default()
            },
        )])
    }

    #[test]
    fn a_damaged_copy_at_any_length_falls_back_to_the_previous_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::open(dir.path()).unwrap();
        assert_eq!(file.load(), (State::new(), None));
        file.save(&state(1)).unwrap();
        file.save(&state(2)).unwrap();
        assert_eq!(file.load(), (state(2), None));
        let whole = std::fs::read(dir.path().join("state")).unwrap();
        for length in 0..whole.len() {
            std::fs::write(dir.path().join("state"), &whole[..length]).unwrap();
            let (got, trouble) = file.load();
            assert_eq!(got, state(1), "truncated to {length}");
            assert!(trouble.is_some());
        }
        let mut flipped = whole.clone();
        let last = flipped.len() - 3;
        flipped[last] ^= 1;
        std::fs::write(dir.path().join("state"), &flipped).unwrap();
        assert_eq!(file.load().0, state(1));
        std::fs::write(dir.path().join("state.previous"), b"x").unwrap();
        assert_eq!(file.load().0, State::new());
    }
}
