//! What this agent holds, on disk: the assignment before a container exists, the result before it is
//! sent. A file is written whole (temporary file, fsync, rename) and removed once the dispatcher has
//! answered.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use prost::Message as _;
use slipway_core::digest::Digest;
use slipway_core::time::Timestamp;
use slipway_proto::convert::AttemptKey;
use slipway_proto::v1;

use crate::sandbox::doors::Gateway;

/// What can go wrong with the held files.
#[derive(Debug, thiserror::Error)]
#[error("cannot write what this agent holds: {0}")]
pub struct HeldError(#[from] std::io::Error);

/// One held attempt, as found on disk.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Which attempt.
    pub key: AttemptKey,
    /// What was assigned.
    pub assign: v1::Assign,
    /// How it ended, when it did.
    pub result: Option<v1::Result>,
}

/// The door that an attempt's tools have in the cache daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// The network that it is open for.
    pub gateway: Gateway,
    /// Where it is.
    pub at: SocketAddr,
}

/// The folder of held attempts.
#[derive(Clone, Debug)]
pub struct Held {
    dir: PathBuf,
}

impl Held {
    /// Uses a folder, making it when it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: &Path) -> Result<Self, HeldError> {
        fs::create_dir_all(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    fn path(&self, key: &AttemptKey, kind: &str) -> PathBuf {
        self.dir.join(format!("{}.{kind}", key.folder()))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), HeldError> {
        let temporary = path.with_extension("new");
        // 0600: an assignment holds the values of its secrets.
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(&self.dir)?.sync_all()?;
        Ok(())
    }

    /// Keeps an assignment.
    ///
    /// # Errors
    /// When it is not durable: the attempt must not begin.
    pub fn save_assign(&self, key: &AttemptKey, assign: &v1::Assign) -> Result<(), HeldError> {
        self.write(&self.path(key, "assign"), &assign.encode_to_vec())
    }

    /// Keeps a result.
    ///
    /// # Errors
    /// When it is not durable.
    pub fn save_result(&self, key: &AttemptKey, result: &v1::Result) -> Result<(), HeldError> {
        self.write(&self.path(key, "result"), &result.encode_to_vec())
    }

    /// Keeps what the stage's workspace began as, for an agent that comes back to its container.
    ///
    /// # Errors
    /// When it is not durable.
    pub fn save_base(&self, key: &AttemptKey, base: &Digest) -> Result<(), HeldError> {
        self.write(&self.path(key, "base"), base.to_string().as_bytes())
    }

    /// What the stage's workspace began as.
    #[must_use]
    pub fn base(&self, key: &AttemptKey) -> Option<Digest> {
        let text = fs::read_to_string(self.path(key, "base")).ok()?;
        text.parse().ok()
    }

    /// Keeps when the stage began to execute: its time-out does not begin again with the agent.
    ///
    /// # Errors
    /// When it is not durable.
    pub fn save_started(&self, key: &AttemptKey, at: Timestamp) -> Result<(), HeldError> {
        let text = at.as_millis().to_string();
        self.write(&self.path(key, "started"), text.as_bytes())
    }

    /// When the stage began to execute.
    #[must_use]
    pub fn started(&self, key: &AttemptKey) -> Option<Timestamp> {
        let text = fs::read_to_string(self.path(key, "started")).ok()?;
        text.parse().ok().map(Timestamp::from_millis)
    }

    /// Keeps where its tools' door is, for whoever closes it.
    ///
    /// # Errors
    /// When it is not durable.
    pub fn save_door(&self, key: &AttemptKey, door: &Door) -> Result<(), HeldError> {
        let text = format!("{} {}", door.gateway.interface, door.at);
        self.write(&self.path(key, "door"), text.as_bytes())
    }

    /// Where its tools' door is, when it has one.
    #[must_use]
    pub fn door(&self, key: &AttemptKey) -> Option<Door> {
        let text = fs::read_to_string(self.path(key, "door")).ok()?;
        let (interface, at) = text.split_once(' ')?;
        let at: SocketAddr = at.parse().ok()?;
        let gateway = Gateway {
            address: at.ip(),
            interface: interface.to_owned(),
        };
        Some(Door { gateway, at })
    }

    /// Lets an attempt go.
    pub fn remove(&self, key: &AttemptKey) {
        for kind in ["assign", "base", "started", "door", "result"] {
            // What stays behind is judged, and killed, by the next hello.
            let _best_effort = fs::remove_file(self.path(key, kind));
        }
    }

    /// The folder names of everything that is held.
    #[must_use]
    pub fn folders(&self) -> Vec<String> {
        let files = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        names
            .filter_map(|name| Some(name.strip_suffix(".assign")?.to_owned()))
            .collect()
    }

    /// Everything that is held, as after a restart. Unreadable files are skipped: the dispatcher
    /// then counts them as lost.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn all(&self) -> Result<Vec<Kept>, HeldError> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "assign") {
                continue;
            }
            let Ok(assign) = v1::Assign::decode(fs::read(&path)?.as_slice()) else {
                tracing::warn!(path = %path.display(), "a held attempt cannot be read");
                continue;
            };
            let Ok(key) = AttemptKey::try_from(assign.attempt.clone()) else {
                continue;
            };
            let result = fs::read(self.path(&key, "result"))
                .ok()
                .and_then(|bytes| v1::Result::decode(bytes.as_slice()).ok());
            kept.push(Kept {
                key,
                assign,
                result,
            });
        }
        kept.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_held_is_found_again_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let held = Held::open(dir.path()).unwrap();
        let wire = v1::AttemptRef {
            stage_id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".into(),
            attempt: 2,
        };
        let key = AttemptKey::try_from(Some(wire.clone())).unwrap();
        let assign = v1::Assign {
            attempt: Some(wire.clone()),
            spec_json: "{}".into(),
            ..v1::Assign::default()
        };
        held.save_assign(&key, &assign).unwrap();
        std::fs::write(dir.path().join("broken.assign"), b"\xff\xff").unwrap();
        let kept = Held::open(dir.path()).unwrap().all().unwrap();
        assert_eq!(kept.len(), 1);
        assert!(kept[0].key == key && kept[0].assign == assign && kept[0].result.is_none());
        let result = v1::Result {
            attempt: Some(wire),
            exit_code: 3,
            ..v1::Result::default()
        };
        held.save_result(&key, &result).unwrap();
        assert_eq!(held.all().unwrap()[0].result, Some(result));
        let door = Door {
            gateway: Gateway {
                address: "172.18.0.1".parse().unwrap(),
                interface: "ci-stages".to_owned(),
            },
            at: "172.18.0.1:4000".parse().unwrap(),
        };
        held.save_door(&key, &door).unwrap();
        assert_eq!(held.door(&key), Some(door));
        held.remove(&key);
        assert!(held.all().unwrap().is_empty() && held.door(&key).is_none());
    }
}
