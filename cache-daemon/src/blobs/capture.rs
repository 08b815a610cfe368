//! Reads a directory that a stage may have filled with anything, and stores what it holds.
//!
//! Every directory is opened by its one name below the already opened parent, without following
//! links; every file likewise, and only regular files are read. A file that looks exactly as it did
//! when it was laid out (size, inode, modification and change time) is not read again: a stage can
//! set the modification time, but not the change time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use slipway_core::cache::manifest::{self, Entry, ManifestError, Tree};
use slipway_core::digest::Digest;

use super::{Batch, BlobError};

/// Notes kept about entries that were left out.
const NOTES_MAX: usize = 20;

/// How a file looked at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    size: i64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Look {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            size: stat.st_size,
            inode: stat.st_ino,
            modified: (stat.st_mtime, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }
}

/// Files by path: how each looked when its digest was computed.
pub type Known = BTreeMap<String, (Look, Digest)>;

/// What a directory holds.
pub struct Captured {
    /// As a tree.
    pub tree: Tree,
    /// Entries left out, with the reason.
    pub notes: Vec<String>,
}

/// Why a directory cannot be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The disk refused.
    #[error("the workspace cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A file cannot be kept.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The whole is too large or malformed.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Its files have more bytes than may be kept.
    #[error("more than the {} MiB that may be kept", .0 >> 20)]
    TooLarge(u64),
}

struct Walk<'a, 'd> {
    batch: &'a mut Batch<'d>,
    known: &'a Known,
    keep_git: bool,
    entries: BTreeMap<String, Entry>,
    notes: Vec<String>,
    /// Bytes of files that may come yet, out of `limit`.
    left: u64,
    limit: u64,
}

/// Stores what `directory` holds in `batch` and answers its tree.
///
/// # Errors
/// When the directory cannot be read, or holds more than a tree can.
pub fn capture(
    directory: &Path,
    known: &Known,
    keep_git: bool,
    batch: &mut Batch<'_>,
) -> Result<Captured, CaptureError> {
    let root: OwnedFd = File::open(directory)?.into();
    let mut walk = Walk {
        batch,
        known,
        keep_git,
        entries: BTreeMap::new(),
        notes: Vec::new(),
        left: u64::MAX,
        limit: u64::MAX,
    };
    walk.directory(root, "")?;
    walk.captured()
}

/// Stores what these folders below `directory` hold, at most `limit` bytes, and answers a tree with their
/// full paths. A folder that is not there is noted.
///
/// # Errors
/// When a folder cannot be read, or they hold more than a tree can or than the limit.
pub fn capture_paths(
    directory: &Path,
    paths: &[String],
    limit: u64,
    batch: &mut Batch<'_>,
) -> Result<Captured, CaptureError> {
    let mut walk = Walk {
        batch,
        known: &Known::new(),
        keep_git: false,
        entries: BTreeMap::new(),
        notes: Vec::new(),
        left: limit,
        limit,
    };
    for path in paths {
        match descend(directory, path) {
            Ok(folder) => {
                let ends = path.match_indices('/').map(|(at, _)| at);
                for end in ends.chain([path.len()]) {
                    let parent = path.get(..end).unwrap_or(path).to_owned();
                    walk.entries.insert(parent, Entry::Directory);
                }
                walk.directory(folder, &format!("{path}/"))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                walk.note(path, "not there");
            }
            Err(error) => walk.note(path, &format!("not a folder that can be read: {error}")),
        }
    }
    walk.captured()
}

/// The folder at `path`, each part of it opened by its name and through no link.
fn descend(directory: &Path, path: &str) -> io::Result<OwnedFd> {
    let root: OwnedFd = File::open(directory)?.into();
    path.split('/')
        .try_fold(root, |folder, name| open(&folder, name, OFlags::DIRECTORY))
}

impl Walk<'_, '_> {
    fn captured(self) -> Result<Captured, CaptureError> {
        let tree = Tree::new(self.entries)?;
        Ok(Captured {
            tree,
            notes: self.notes,
        })
    }

    fn note(&mut self, path: &str, reason: &str) {
        if self.notes.len() < NOTES_MAX {
            let shown: String = path.chars().take(200).map(printable).collect();
            self.notes.push(format!("{shown}: {reason}"));
        }
    }

    fn directory(&mut self, folder: OwnedFd, prefix: &str) -> Result<(), CaptureError> {
        let listing = Dir::read_from(&folder).map_err(io::Error::from)?;
        for item in listing {
            let item = item.map_err(io::Error::from)?;
            let name = item.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(text) = name.to_str() else {
                self.note(&name.to_string_lossy(), "its name is not UTF-8");
                continue;
            };
            if prefix.is_empty() && text == ".git" && !self.keep_git {
                continue;
            }
            let path = format!("{prefix}{text}");
            if let Err(error) = manifest::check_path(&path) {
                self.note(&path, &error.to_string());
                continue;
            }
            if self.entries.len() >= manifest::ENTRIES_MAX {
                return Err(ManifestError::TooMany.into());
            }
            self.entry(&folder, text, path)?;
        }
        Ok(())
    }

    fn entry(&mut self, folder: &OwnedFd, name: &str, path: String) -> Result<(), CaptureError> {
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = match stat {
            Ok(stat) => stat,
            // Gone between the listing and now: it is not part of what the stage left.
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(io::Error::from(error).into()),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let child = open(folder, name, OFlags::DIRECTORY)?;
                let below = format!("{path}/");
                self.entries.insert(path, Entry::Directory);
                self.directory(child, &below)?;
            }
            FileType::RegularFile => self.file(folder, name, path, &stat)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(folder, name, Vec::new());
                let target = target.map_err(io::Error::from)?;
                match target.to_str() {
                    Ok(text) if manifest::check_link(&path, text).is_ok() => {
                        let target = text.to_owned();
                        self.entries.insert(path, Entry::Link { target });
                    }
                    _ => self.note(&path, "a link that leaves the workspace"),
                }
            }
            _ => self.note(&path, "not a file, directory or link"),
        }
        Ok(())
    }

    fn file(
        &mut self,
        folder: &OwnedFd,
        name: &str,
        path: String,
        stat: &Stat,
    ) -> Result<(), CaptureError> {
        // Before it is read: what is too large costs nothing.
        let announced = u64::try_from(stat.st_size).unwrap_or(0);
        let left = self.left.checked_sub(announced);
        self.left = left.ok_or(CaptureError::TooLarge(self.limit))?;
        let known = self
            .known
            .get(&path)
            .filter(|(look, _)| *look == Look::of(stat));
        let (digest, size) = if let Some((_, digest)) = known {
            (*digest, u64::try_from(stat.st_size).unwrap_or(0))
        } else {
            let file = File::from(open(folder, name, OFlags::NONBLOCK)?);
            // What was a file a moment ago may have been exchanged for a pipe.
            if !file.metadata()?.is_file() {
                self.note(&path, "not a file any more");
                return Ok(());
            }
            self.batch.add_reader(&mut &file)?
        };
        let mtime_ns = stat
            .st_mtime
            .saturating_mul(1_000_000_000)
            .saturating_add(stat.st_mtime_nsec as i64);
        self.entries.insert(
            path,
            Entry::File {
                digest,
                size,
                executable: stat.st_mode & 0o100 != 0,
                mtime_ns,
            },
        );
        Ok(())
    }
}

fn open(folder: &impl AsFd, name: &str, extra: OFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | extra;
    Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?)
}

fn printable(c: char) -> char {
    if c.is_control() { '?' } else { c }
}

#[cfg(test)]
#[path = "capture_tests.rs"]
mod tests;
