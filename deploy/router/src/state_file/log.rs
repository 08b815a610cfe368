//! The log of changes between two whole copies: one line each, written into a file that was filled with
//! zeros before. A line is durable after one `fdatasync` that has no metadata to write (a tenth of a
//! millisecond where a new file costs ten), and that is what a switch waits for.
//!
//! A line is `<digest> <sequence> <json>`, the digest over the rest. The first zero ends the log. Lines
//! are never written over, so a torn one is the last, and it was never answered for.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use slipway_core::digest::Digest;

use super::Kept;

/// Size of a log file, bytes. What does not fit makes a whole copy necessary.
pub(super) const SIZE: usize = 1024 * 1024;

/// One change: everything that is known of one service from now on.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Change {
    pub(super) service: String,
    pub(super) kept: Kept,
}

/// The log that is written to.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    left: usize,
}

impl Log {
    /// Makes an empty one at `path`, durable but for its name.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let mut file = File::create(path)?;
        file.write_all(&vec![0; SIZE])?;
        file.sync_all()?;
        io::Seek::rewind(&mut file)?;
        Ok(Self { file, left: SIZE })
    }

    /// Makes one change durable; false when it does not fit. After an error the log is not used again.
    pub(super) fn append(&mut self, sequence: u64, change: &Change) -> io::Result<bool> {
        let line = line(sequence, change)?;
        if line.len() >= self.left {
            return Ok(false);
        }
        self.file.write_all(&line)?;
        self.file.sync_data()?;
        self.left -= line.len();
        Ok(true)
    }
}

fn line(sequence: u64, change: &Change) -> io::Result<Vec<u8>> {
    let json = serde_json::to_string(change).map_err(io::Error::other)?;
    let text = format!("{sequence} {json}");
    Ok(format!("{} {text}\n", Digest::of(text.as_bytes())).into_bytes())
}

/// The changes of a log in their order, and what is wrong behind the last good one. No file is an empty
/// log.
pub(super) fn read(path: &Path) -> (Vec<(u64, Change)>, Option<String>) {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (Vec::new(), None),
        Err(error) => return (Vec::new(), Some(error.to_string())),
    };
    let mut bytes = Vec::new();
    if let Err(error) = file.take(SIZE as u64).read_to_end(&mut bytes) {
        return (Vec::new(), Some(error.to_string()));
    }
    let written = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut changes = Vec::new();
    for line in written.split_inclusive(|byte| *byte == b'\n') {
        match parse(line) {
            Some(change) => changes.push(change),
            None => {
                let trouble = format!("a change after {} good ones is damaged", changes.len());
                return (changes, Some(trouble));
            }
        }
    }
    (changes, None)
}

fn parse(line: &[u8]) -> Option<(u64, Change)> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (digest, text) = line.split_once(' ')?;
    if digest != Digest::of(text.as_bytes()).to_string() {
        return None;
    }
    let (sequence, json) = text.split_once(' ')?;
    Some((sequence.parse().ok()?, serde_json::from_str(json).ok()?))
}
