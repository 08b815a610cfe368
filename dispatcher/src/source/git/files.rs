//! Single files of a commit, out of the object database. Follows no link and writes nothing.

use std::path::Path;

use super::super::{BYTES_MAX, FILES_MAX, SourceError};
use super::{READ_TIMEOUT, git};

/// The file at a path, or every file below it.
pub(super) async fn below(
    mirror: &Path,
    sha: &str,
    path: &str,
) -> Result<Vec<(String, Vec<u8>)>, SourceError> {
    let args = ["ls-tree", "-r", "-z", "-l", "--full-tree", sha, "--", path];
    let out = git(mirror, &args, READ_TIMEOUT).await?;
    let mut listed = Vec::new();
    let mut size = 0_usize;
    for line in out.split(|b| *b == 0).filter(|line| !line.is_empty()) {
        let line = std::str::from_utf8(line);
        let line =
            line.map_err(|_| SourceError::Unreadable(format!("{path}: a name is not UTF-8")))?;
        let Some((head, name)) = line.split_once('\t') else {
            continue;
        };
        let mut head = head.split_ascii_whitespace();
        let (mode, id) = (head.next().unwrap_or_default(), head.nth(1));
        if mode != "100644" && mode != "100755" {
            return Err(SourceError::NotAFile(name.to_owned()));
        }
        let bytes = head.next().and_then(|text| text.parse::<usize>().ok());
        size = size.saturating_add(bytes.unwrap_or(usize::MAX));
        listed.push((name.to_owned(), id.unwrap_or_default().to_owned()));
        if listed.len() > FILES_MAX || size > BYTES_MAX {
            let why = format!("{path} has more than {FILES_MAX} files or {BYTES_MAX} bytes");
            return Err(SourceError::Unreadable(why));
        }
    }
    let mut files = Vec::with_capacity(listed.len());
    for (name, id) in listed {
        let args = ["cat-file", "blob", &id];
        files.push((name, git(mirror, &args, READ_TIMEOUT).await?));
    }
    Ok(files)
}
