//! The build context of an image as a tar whose bytes depend on content alone: entries sorted, one
//! time, no owners, two modes.
//!
//! The folder was in a stage's hands: every directory is opened by one name below its opened parent,
//! links become entries and are never followed, anything but files, directories and links is left out.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use globset::{GlobBuilder, GlobMatcher};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use tar::{Builder, EntryType, Header};

/// Bytes of all files together; the context is held in memory.
const BYTES_MAX: u64 = 512 << 20;
/// Entries.
const ENTRIES_MAX: usize = 200_000;
/// Directories inside one another.
const DEPTH_MAX: usize = 256;
/// Bytes of a `.dockerignore`.
const IGNORE_MAX: u64 = 1 << 20;
/// Bytes of a Dockerfile that are looked at: no comment before its first instruction is longer.
const HEAD_MAX: u64 = 1 << 20;
/// Where patterns of files that stay out are.
const IGNORE: &str = ".dockerignore";

/// Why there is no context.
#[derive(Debug, thiserror::Error)]
pub(super) enum ContextError {
    /// The folder is not there, or is a link, or leaves the workspace.
    #[error("the build context is not a folder of the workspace: {0}")]
    Folder(io::Error),
    /// A file cannot be read.
    #[error("the build context cannot be read: {0}")]
    Io(#[from] io::Error),
    /// There is no Dockerfile where it should be.
    #[error("the build context has no file `{0}`")]
    NoDockerfile(String),
    /// Too much.
    #[error("the build context is larger than {} MiB or {ENTRIES_MAX} files; list what is not needed in .dockerignore", BYTES_MAX >> 20)]
    TooLarge,
    /// A pattern that is none.
    #[error("`{pattern}` in .dockerignore is not a pattern")]
    Pattern {
        /// As written.
        pattern: String,
    },
}

/// Appends the tar of `dir` to `out`, and answers with how its Dockerfile begins. `epoch` (seconds) is the
/// time of every entry.
pub(super) fn context_tar(
    dir: &Path,
    dockerfile: &str,
    epoch: i64,
    out: &mut Vec<u8>,
) -> Result<String, ContextError> {
    let root = open_root(dir).map_err(ContextError::Folder)?;
    let ignored = Ignored::read(&root, dockerfile)?;
    let mut entries = BTreeMap::new();
    let mut walk = Walk {
        ignored: &ignored,
        entries: &mut entries,
        bytes: 0,
    };
    walk.directory(&root, "", 0)?;
    let dockerfile = dockerfile.trim_start_matches("./");
    if !matches!(entries.get(dockerfile), Some(Found::File { .. })) {
        return Err(ContextError::NoDockerfile(dockerfile.to_owned()));
    }
    let mut head = Vec::new();
    open_below(&root, dockerfile)?
        .take(HEAD_MAX)
        .read_to_end(&mut head)?;
    let mut tar = Builder::new(out);
    for (path, found) in &entries {
        append(&mut tar, &root, path, found, epoch)?;
    }
    tar.finish()?;
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn open_root(dir: &Path) -> io::Result<OwnedFd> {
    if dir.components().any(|c| c == Component::ParentDir) {
        return Err(io::Error::other("`..` leaves it"));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(
        CWD,
        dir,
        flags,
        Mode::empty(),
        resolve,
    )?)
}

/// A file below `root`, reached through no link.
fn open_below(root: &OwnedFd, path: &str) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = File::from(rustix::fs::openat2(
        root,
        path,
        flags,
        Mode::empty(),
        resolve,
    )?);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("not a regular file"))
    }
}

enum Found {
    File { size: u64, executable: bool },
    Directory,
    Link { target: String },
}

struct Walk<'a> {
    ignored: &'a Ignored,
    entries: &'a mut BTreeMap<String, Found>,
    bytes: u64,
}

impl Walk<'_> {
    fn directory(
        &mut self,
        folder: &OwnedFd,
        prefix: &str,
        depth: usize,
    ) -> Result<(), ContextError> {
        if depth > DEPTH_MAX {
            return Err(ContextError::TooLarge);
        }
        for item in Dir::read_from(folder).map_err(io::Error::from)? {
            let item = item.map_err(io::Error::from)?;
            let Ok(name) = item.file_name().to_str() else {
                continue;
            };
            if matches!(name, "." | "..") {
                continue;
            }
            let path = format!("{prefix}{name}");
            let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(io::Error::from)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            let stays_out = self.ignored.matches(&path);
            if kind == FileType::Directory {
                // An exception may bring back something below an ignored folder.
                if stays_out && !self.ignored.has_exceptions() {
                    continue;
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let child = rustix::fs::openat(folder, name, flags, Mode::empty())
                    .map_err(io::Error::from)?;
                let before = self.entries.len();
                self.directory(&child, &format!("{path}/"), depth + 1)?;
                if !stays_out || self.entries.len() > before {
                    self.keep(path, Found::Directory)?;
                }
                continue;
            }
            if stays_out {
                continue;
            }
            match kind {
                FileType::RegularFile => {
                    let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
                    self.bytes = self.bytes.saturating_add(size);
                    let executable = stat.st_mode & 0o100 != 0;
                    self.keep(path, Found::File { size, executable })?;
                }
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(folder, name, Vec::new());
                    if let Ok(target) = target.map_err(io::Error::from)?.into_string() {
                        self.keep(path, Found::Link { target })?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn keep(&mut self, path: String, found: Found) -> Result<(), ContextError> {
        self.entries.insert(path, found);
        if self.entries.len() > ENTRIES_MAX || self.bytes > BYTES_MAX {
            return Err(ContextError::TooLarge);
        }
        Ok(())
    }
}

fn append(
    tar: &mut Builder<&mut Vec<u8>>,
    root: &OwnedFd,
    path: &str,
    found: &Found,
    epoch: i64,
) -> Result<(), ContextError> {
    let mut header = Header::new_gnu();
    header.set_mtime(u64::try_from(epoch).unwrap_or(0));
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    match found {
        Found::Directory => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o755);
            tar.append_data(&mut header, format!("{path}/"), io::empty())?;
        }
        Found::Link { target } => {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            tar.append_link(&mut header, path, target)?;
        }
        Found::File { size, executable } => {
            header.set_entry_type(EntryType::Regular);
            header.set_mode(if *executable { 0o755 } else { 0o644 });
            header.set_size(*size);
            let mut file = Exactly {
                file: open_below(root, path)?,
                left: *size,
            };
            tar.append_data(&mut header, path, &mut file)?;
            if file.left > 0 {
                return Err(io::Error::other(format!("`{path}` shrank while it was read")).into());
            }
        }
    }
    Ok(())
}

/// A file of the size it had when it was looked at, whatever grows behind it.
struct Exactly {
    file: File,
    left: u64,
}

impl io::Read for Exactly {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(out.len());
        let read = self.file.read(out.get_mut(..most).unwrap_or_default())?;
        self.left -= read as u64;
        Ok(read)
    }
}

/// The patterns of a `.dockerignore`; the last one that matches decides.
struct Ignored {
    rules: Vec<(GlobMatcher, bool)>,
    always: String,
}

impl Ignored {
    fn read(root: &OwnedFd, dockerfile: &str) -> Result<Self, ContextError> {
        let mut text = String::new();
        match open_below(root, IGNORE) {
            Ok(file) => {
                file.take(IGNORE_MAX).read_to_string(&mut text)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        Self::parse(&text, dockerfile)
    }

    fn parse(text: &str, dockerfile: &str) -> Result<Self, ContextError> {
        let mut rules = Vec::new();
        for line in text.lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (pattern, exception) = match line.strip_prefix('!') {
                Some(rest) => (rest.trim(), true),
                None => (line, false),
            };
            let pattern = pattern.trim_matches('/').trim_start_matches("./");
            let glob = GlobBuilder::new(pattern)
                .literal_separator(true)
                .build()
                .map_err(|_| ContextError::Pattern {
                    pattern: line.to_owned(),
                })?;
            rules.push((glob.compile_matcher(), exception));
        }
        Ok(Self {
            rules,
            always: dockerfile.trim_start_matches("./").to_owned(),
        })
    }

    fn has_exceptions(&self) -> bool {
        // The Dockerfile is always sent, so it is an exception of its own.
        self.always.contains('/') || self.rules.iter().any(|(_, exception)| *exception)
    }

    /// Whether `path` stays out: it or a folder above it matches.
    fn matches(&self, path: &str) -> bool {
        if path == self.always {
            return false;
        }
        let above = path
            .match_indices('/')
            .filter_map(|(at, _)| path.get(..at))
            .chain([path]);
        let levels: Vec<&str> = above.collect();
        let mut out = false;
        for (glob, exception) in &self.rules {
            if levels.iter().any(|level| glob.is_match(level)) {
                out = !exception;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    const EPOCH: i64 = 1_700_000_000;

    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for (path, text) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        (dir, root)
    }

    fn pack(root: &Path) -> Vec<u8> {
        let mut out = Vec::new();
        context_tar(root, "Dockerfile", EPOCH, &mut out).unwrap();
        out
    }

    fn names(bytes: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(bytes);
        let entries = archive.entries().unwrap();
        entries
            .map(|e| e.unwrap().path().unwrap().display().to_string())
            .collect()
    }

    #[test]
    fn the_same_content_gives_the_same_bytes_whatever_times_order_and_owners_bits_are() {
        let files = [
            ("Dockerfile", "FROM scratch"),
            ("b/z", "1"),
            ("b/a", "2"),
            ("run", "x"),
        ];
        let (_one, first) = folder(&files);
        let reversed: Vec<_> = files.iter().rev().copied().collect();
        let (_two, second) = folder(&reversed);
        for root in [&first, &second] {
            std::fs::set_permissions(root.join("run"), std::fs::Permissions::from_mode(0o755))
                .unwrap();
            symlink("b/a", root.join("link")).unwrap();
        }
        let strange = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(second.join("b/a"), strange).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(5);
        std::fs::File::open(second.join("b/z"))
            .unwrap()
            .set_modified(time)
            .unwrap();
        assert_eq!(pack(&first), pack(&second));
        let names = names(&pack(&first));
        assert_eq!(names, ["Dockerfile", "b/", "b/a", "b/z", "link", "run"]);
    }

    #[test]
    fn ignored_files_stay_out_and_exceptions_come_back() {
        let (_dir, root) = folder(&[
            (
                ".dockerignore",
                "# comment\n*.log\n/target/\nsecret\n**/deep.txt\n!target/keep\nDockerfile\n",
            ),
            ("Dockerfile", "FROM scratch"),
            ("a.log", ""),
            ("sub/a.log", ""),
            ("sub/x/deep.txt", ""),
            ("target/big", ""),
            ("target/keep", ""),
            ("secret/key", ""),
        ]);
        let names = names(&pack(&root));
        assert_eq!(
            names,
            [
                ".dockerignore",
                "Dockerfile",
                "sub/",
                "sub/a.log",
                "sub/x/",
                "target/",
                "target/keep"
            ]
        );
    }

    #[test]
    fn links_are_never_followed_and_a_context_outside_is_refused() {
        let (_dir, root) = folder(&[
            ("ctx/Dockerfile", "FROM scratch"),
            ("outside/secret", "s3cret"),
        ]);
        symlink("../outside", root.join("ctx/out")).unwrap();
        symlink("ctx", root.join("through")).unwrap();
        let bytes = pack(&root.join("ctx"));
        assert_eq!(names(&bytes), ["Dockerfile", "out"]);
        assert!(!bytes.windows(6).any(|w| w == b"s3cret"));
        let mut out = Vec::new();
        for bad in ["through", "ctx/../outside", "nowhere", "ctx/Dockerfile"] {
            let result = context_tar(&root.join(bad), "Dockerfile", EPOCH, &mut out);
            assert!(matches!(result, Err(ContextError::Folder(_))), "{bad}");
        }
        symlink("/etc/hostname", root.join("outside/Dockerfile")).unwrap();
        let result = context_tar(&root.join("outside"), "Dockerfile", EPOCH, &mut out);
        assert!(matches!(result, Err(ContextError::NoDockerfile(_))));
    }
}
