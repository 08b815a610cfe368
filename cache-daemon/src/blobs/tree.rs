//! Lays a tree out in an empty directory.
//!
//! The tree was checked as a whole, so no entry stands below a link; files are opened beneath the
//! directory without following links all the same. Files are written by a few threads: creating
//! them, not their bytes, is what takes the time.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use slipway_core::cache::manifest::{Entry, Tree};
use slipway_core::digest::Digest;

use super::{BlobError, Disk, Known};

/// Threads that write files.
const THREADS: usize = 4;
/// Fewer files than this are written by one thread.
const ALONE: usize = 32;

/// What was laid out.
#[derive(Default)]
pub struct Restored {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How each file looks now, so that an unchanged one need not be hashed again.
    pub known: Known,
}

/// Lays `tree` out in `directory`, which must exist and be empty.
///
/// # Errors
/// `Miss` when a blob is not here; the directory then holds a part and must be thrown away.
pub fn restore(disk: &Disk, tree: &Tree, directory: &Path) -> Result<Restored, BlobError> {
    if std::fs::read_dir(directory)?.next().is_some() {
        let text = "a workspace is laid out in an empty directory only";
        return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, text).into());
    }
    let root: OwnedFd = File::open(directory)?.into();
    let mut files = Vec::new();
    for (path, entry) in tree.entries() {
        match entry {
            Entry::Directory => {
                rustix::fs::mkdirat(&root, path, Mode::from_raw_mode(0o755))
                    .map_err(io::Error::from)?;
            }
            Entry::Link { target } => {
                rustix::fs::symlinkat(target.as_str(), &root, path).map_err(io::Error::from)?;
            }
            Entry::File {
                digest,
                size,
                executable,
                mtime_ns,
            } => files.push(Want {
                path,
                digest: *digest,
                size: *size,
                executable: *executable,
                mtime_ns: *mtime_ns,
            }),
        }
    }
    let threads = if files.len() < ALONE { 1 } else { THREADS };
    let share = files.len().div_ceil(threads).max(1);
    let parts: Vec<Result<Restored, BlobError>> = std::thread::scope(|scope| {
        let running: Vec<_> = files
            .chunks(share)
            .map(|part| scope.spawn(|| write_files(disk, &root, part)))
            .collect();
        running
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| {
                    Err(io::Error::other("a thread that restores files panicked").into())
                })
            })
            .collect()
    });
    let mut total = Restored::default();
    for part in parts {
        let part = part?;
        total.files += part.files;
        total.bytes += part.bytes;
        total.known.extend(part.known);
    }
    Ok(total)
}

struct Want<'t> {
    path: &'t str,
    digest: Digest,
    size: u64,
    executable: bool,
    mtime_ns: i64,
}

fn write_files(disk: &Disk, root: &OwnedFd, files: &[Want<'_>]) -> Result<Restored, BlobError> {
    let mut done = Restored::default();
    for want in files {
        let mode = if want.executable { 0o755 } else { 0o644 };
        let file = rustix::fs::openat2(
            root,
            want.path,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
            Mode::from_raw_mode(mode),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )
        .map_err(io::Error::from)?;
        let mut file = File::from(file);
        let size = disk.read(&want.digest, want.size, &mut file)?;
        if size != want.size {
            // The manifest lies about it: what is laid out would not be what it names.
            return Err(BlobError::Miss(want.digest));
        }
        // The umask of the daemon does not decide what a workspace looks like.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(io::Error::from)?;
        rustix::fs::futimens(&file, &times(want.mtime_ns)).map_err(io::Error::from)?;
        let stat = rustix::fs::fstat(&file).map_err(io::Error::from)?;
        done.known.insert(
            want.path.to_owned(),
            (super::capture::Look::of(&stat), want.digest),
        );
        done.files += 1;
        done.bytes += size;
    }
    Ok(done)
}

fn times(mtime_ns: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime_ns.div_euclid(1_000_000_000),
        tv_nsec: mtime_ns.rem_euclid(1_000_000_000),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
