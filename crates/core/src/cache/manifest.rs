//! A workspace as content: which paths it holds, what they are, and the bytes that name it.
//!
//! A [`Tree`] is a whole workspace, a [`Layer`] what one stage changed. Each has exactly one
//! encoding, so equal content has an equal digest. Decoding refuses the whole when one entry is bad:
//! a path that leaves the workspace, a link that points out of it, an entry below something that is
//! not a directory. So whoever lays a decoded tree out never passes through a link of its own.

use std::collections::BTreeMap;

use crate::digest::Digest;

/// Entries of one tree or layer.
pub const ENTRIES_MAX: usize = 200_000;
/// Bytes of a path.
pub const PATH_MAX: usize = 4_096;
/// Bytes of one name.
pub const NAME_MAX: usize = 255;
/// Directories above an entry.
pub const DEPTH_MAX: usize = 256;

const TREE_MAGIC: &[u8; 4] = b"SLT1";
const LAYER_MAGIC: &[u8; 4] = b"SLL1";

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A file.
    File {
        /// Its bytes.
        digest: Digest,
        /// How many.
        size: u64,
        /// Whether its owner may execute it; no other permission is kept.
        executable: bool,
        /// Modification time, nanoseconds since 1970.
        mtime_ns: i64,
    },
    /// A directory.
    Directory,
    /// A symbolic link to a relative target inside the workspace.
    Link {
        /// Its text.
        target: String,
    },
}

/// A whole workspace: entries by path (`a/b`, no leading slash).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

/// What changed between two workspaces; `None` = the path is gone, with all below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    changes: BTreeMap<String, Option<Entry>>,
}

/// Why a manifest is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The bytes are not a manifest.
    #[error("the bytes are not a manifest ({0})")]
    Malformed(&'static str),
    /// A path that cannot stand in a workspace.
    #[error("path `{path}` is refused: {reason}")]
    Path {
        /// The path, shortened.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// A link that leaves the workspace.
    #[error("link `{path}` points out of the workspace")]
    EscapingLink {
        /// The path, shortened.
        path: String,
    },
    /// Too many entries.
    #[error("a workspace holds at most {ENTRIES_MAX} entries")]
    TooMany,
}

fn bad_path(path: &str, reason: &'static str) -> ManifestError {
    ManifestError::Path {
        path: path.chars().take(200).collect(),
        reason,
    }
}

/// Checks one path.
///
/// # Errors
/// When it is empty, absolute, too long, too deep, or holds `.`, `..` or control characters.
pub fn check_path(path: &str) -> Result<(), ManifestError> {
    if path.is_empty() || path.len() > PATH_MAX {
        return Err(bad_path(path, "it is empty or too long"));
    }
    if path.chars().any(char::is_control) {
        return Err(bad_path(path, "it holds a control character"));
    }
    let mut depth = 0;
    for name in path.split('/') {
        depth += 1;
        if matches!(name, "" | "." | "..") || name.len() > NAME_MAX || depth > DEPTH_MAX {
            return Err(bad_path(
                path,
                "a name is empty, `.`, `..`, too long or too deep",
            ));
        }
    }
    Ok(())
}

/// Checks that a link at `path` with this target stays inside the workspace.
///
/// # Errors
/// When the target is empty, absolute, or climbs out.
pub fn check_link(path: &str, target: &str) -> Result<(), ManifestError> {
    let escapes = || ManifestError::EscapingLink {
        path: path.chars().take(200).collect(),
    };
    if target.is_empty()
        || target.len() > PATH_MAX
        || target.starts_with('/')
        || target.chars().any(char::is_control)
    {
        return Err(escapes());
    }
    let mut depth = path.split('/').count().saturating_sub(1);
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." => depth = depth.checked_sub(1).ok_or_else(escapes)?,
            _ => depth += 1,
        }
    }
    Ok(())
}

fn check_entry(path: &str, entry: &Entry) -> Result<(), ManifestError> {
    check_path(path)?;
    match entry {
        Entry::Link { target } => check_link(path, target),
        _ => Ok(()),
    }
}

impl Tree {
    /// From entries; each is checked, and so is that each stands in a directory.
    ///
    /// # Errors
    /// When one of them is refused.
    pub fn new(entries: BTreeMap<String, Entry>) -> Result<Self, ManifestError> {
        if entries.len() > ENTRIES_MAX {
            return Err(ManifestError::TooMany);
        }
        for (path, entry) in &entries {
            check_entry(path, entry)?;
            if let Some((parent, _)) = path.rsplit_once('/')
                && entries.get(parent) != Some(&Entry::Directory)
            {
                return Err(bad_path(path, "it does not stand in a directory"));
            }
        }
        Ok(Self { entries })
    }

    /// Entries by path, in order: a directory before what is in it.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries
            .iter()
            .map(|(path, entry)| (path.as_str(), entry))
    }

    /// One entry.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.entries
            .values()
            .map(|entry| match entry {
                Entry::File { size, .. } => *size,
                _ => 0,
            })
            .fold(0, u64::saturating_add)
    }

    /// Digests of its files.
    pub fn blobs(&self) -> impl Iterator<Item = Digest> {
        self.entries.values().filter_map(|e| match e {
            Entry::File { digest, .. } => Some(*digest),
            _ => None,
        })
    }

    /// How many files there are.
    #[must_use]
    pub fn files(&self) -> u64 {
        let files = self
            .entries
            .values()
            .filter(|e| matches!(e, Entry::File { .. }));
        files.count() as u64
    }

    /// What `now` changed against this tree.
    #[must_use]
    pub fn diff(&self, now: &Self) -> Layer {
        let mut changes = BTreeMap::new();
        for path in self.entries.keys() {
            let parent_gone = path
                .rsplit_once('/')
                .is_some_and(|(parent, _)| now.entries.get(parent) != Some(&Entry::Directory));
            if !now.entries.contains_key(path) && !parent_gone {
                changes.insert(path.clone(), None);
            }
        }
        for (path, entry) in &now.entries {
            if self.entries.get(path) != Some(entry) {
                changes.insert(path.clone(), Some(entry.clone()));
            }
        }
        Layer { changes }
    }

    /// This tree with `layer` laid over it.
    ///
    /// # Errors
    /// When the outcome is not a tree (a layer over something it was not made for).
    pub fn with_layer(&self, layer: &Layer) -> Result<Self, ManifestError> {
        let mut entries = self.entries.clone();
        for (path, change) in &layer.changes {
            if change.as_ref() != Some(&Entry::Directory) {
                remove_below(&mut entries, path);
            }
            match change {
                Some(entry) => {
                    entries.insert(path.clone(), entry.clone());
                }
                None => {
                    entries.remove(path);
                }
            }
        }
        // A layer made over another base may miss directories that its base had.
        let missing: Vec<String> = entries
            .keys()
            .flat_map(|path| parents(path))
            .filter(|parent| !entries.contains_key(*parent))
            .map(str::to_owned)
            .collect();
        for parent in missing {
            entries.insert(parent, Entry::Directory);
        }
        Self::new(entries)
    }

    /// The one encoding of this tree; its digest names it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = TREE_MAGIC.to_vec();
        put_u32(&mut out, self.entries.len());
        for (path, entry) in &self.entries {
            put_entry(&mut out, path, Some(entry));
        }
        out
    }

    /// Reads an encoding.
    ///
    /// # Errors
    /// When it is not the one encoding of a good tree.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let entries = decode(bytes, TREE_MAGIC)?
            .into_iter()
            .map(|(path, entry)| {
                let entry = entry.ok_or(ManifestError::Malformed("a tree removes nothing"))?;
                Ok((path, entry))
            })
            .collect::<Result<_, ManifestError>>()?;
        Self::new(entries)
    }
}

fn remove_below(entries: &mut BTreeMap<String, Entry>, path: &str) {
    let prefix = format!("{path}/");
    let below: Vec<String> = entries
        .range(prefix.clone()..)
        .take_while(|(p, _)| p.starts_with(&prefix))
        .map(|(p, _)| p.clone())
        .collect();
    for path in below {
        entries.remove(&path);
    }
}

fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').filter_map(|(at, _)| path.get(..at))
}

impl Layer {
    /// How many paths it puts, and how many it removes.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let put = self.changes.values().flatten().count();
        (put as u64, (self.changes.len() - put) as u64)
    }

    /// Digests of the files that it puts.
    pub fn blobs(&self) -> impl Iterator<Item = Digest> {
        self.changes.values().flatten().filter_map(|e| match e {
            Entry::File { digest, .. } => Some(*digest),
            _ => None,
        })
    }

    /// The one encoding of this layer; its digest names it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = LAYER_MAGIC.to_vec();
        put_u32(&mut out, self.changes.len());
        for (path, change) in &self.changes {
            put_entry(&mut out, path, change.as_ref());
        }
        out
    }

    /// Reads an encoding.
    ///
    /// # Errors
    /// When it is not the one encoding of a good layer.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let changes = decode(bytes, LAYER_MAGIC)?;
        for (path, change) in &changes {
            match change {
                Some(entry) => check_entry(path, entry)?,
                None => check_path(path)?,
            }
        }
        Ok(Self { changes })
    }
}

const KIND_REMOVED: u8 = 0;
const KIND_FILE: u8 = 1;
const KIND_EXECUTABLE: u8 = 2;
const KIND_DIRECTORY: u8 = 3;
const KIND_LINK: u8 = 4;

fn put_u32(out: &mut Vec<u8>, value: usize) {
    out.extend(u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // Paths and targets are at most PATH_MAX bytes.
    out.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_entry(out: &mut Vec<u8>, path: &str, entry: Option<&Entry>) {
    let kind = match entry {
        None => KIND_REMOVED,
        Some(Entry::File { executable, .. }) if *executable => KIND_EXECUTABLE,
        Some(Entry::File { .. }) => KIND_FILE,
        Some(Entry::Directory) => KIND_DIRECTORY,
        Some(Entry::Link { .. }) => KIND_LINK,
    };
    out.push(kind);
    put_text(out, path);
    match entry {
        Some(Entry::File {
            digest,
            size,
            mtime_ns,
            ..
        }) => {
            out.extend(size.to_le_bytes());
            out.extend(mtime_ns.to_le_bytes());
            out.extend(digest.as_bytes());
        }
        Some(Entry::Link { target }) => put_text(out, target),
        _ => {}
    }
}

struct Cursor<'b> {
    rest: &'b [u8],
}

impl<'b> Cursor<'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], ManifestError> {
        let (head, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(ManifestError::Malformed("it ends early"))?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ManifestError> {
        let bytes = self.take(N)?;
        bytes
            .try_into()
            .map_err(|_| ManifestError::Malformed("it ends early"))
    }

    fn text(&mut self) -> Result<String, ManifestError> {
        let length = usize::from(u16::from_le_bytes(self.array()?));
        let text = std::str::from_utf8(self.take(length)?);
        text.map(str::to_owned)
            .map_err(|_| ManifestError::Malformed("a text is not UTF-8"))
    }
}

fn decode(bytes: &[u8], magic: &[u8; 4]) -> Result<BTreeMap<String, Option<Entry>>, ManifestError> {
    let mut cursor = Cursor { rest: bytes };
    if cursor.take(4)? != magic {
        return Err(ManifestError::Malformed("another kind of file"));
    }
    let count = u32::from_le_bytes(cursor.array()?);
    if count as usize > ENTRIES_MAX {
        return Err(ManifestError::TooMany);
    }
    let mut all = BTreeMap::new();
    let mut last = String::new();
    for _ in 0..count {
        let kind = cursor.take(1)?.first().copied().unwrap_or(u8::MAX);
        let path = cursor.text()?;
        if path <= last {
            return Err(ManifestError::Malformed("paths are not in order"));
        }
        let entry = take_entry(&mut cursor, kind)?;
        last.clone_from(&path);
        all.insert(path, entry);
    }
    if !cursor.rest.is_empty() {
        return Err(ManifestError::Malformed("bytes follow its end"));
    }
    Ok(all)
}

fn take_entry(cursor: &mut Cursor<'_>, kind: u8) -> Result<Option<Entry>, ManifestError> {
    Ok(match kind {
        KIND_REMOVED => None,
        KIND_DIRECTORY => Some(Entry::Directory),
        KIND_LINK => Some(Entry::Link {
            target: cursor.text()?,
        }),
        KIND_FILE | KIND_EXECUTABLE => Some(Entry::File {
            size: u64::from_le_bytes(cursor.array()?),
            mtime_ns: i64::from_le_bytes(cursor.array()?),
            digest: Digest::from_bytes(cursor.array()?),
            executable: kind == KIND_EXECUTABLE,
        }),
        _ => return Err(ManifestError::Malformed("an unknown kind of entry")),
    })
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
