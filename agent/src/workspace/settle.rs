//! What a folder needs before others can use it: one time on every file, an owner who may write.
//!
//! Walks what we laid out ourselves, before any stage has seen it; links are never followed.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

/// Gives everything below `dir` the time `seconds` (since 1970), so that the same commit is the same
/// workspace whenever it is fetched.
///
/// # Errors
/// When the folder cannot be walked.
pub(crate) fn set_times(dir: &Path, seconds: i64) -> io::Result<()> {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    walk(dir, &mut |path| {
        Ok(rustix::fs::utimensat(
            CWD,
            path,
            &times,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    })
}

/// Gives `dir` and everything below it to another user, who executes the stage.
///
/// # Errors
/// When the folder cannot be walked, or we may not.
pub(crate) fn give_to(dir: &Path, user: u32) -> io::Result<()> {
    walk(dir, &mut |path| {
        std::os::unix::fs::lchown(path, Some(user), Some(user))
    })
}

fn walk(path: &Path, deed: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            walk(&entry?.path(), deed)?;
        }
    }
    deed(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_reach_files_and_folders_and_not_what_links_point_to() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "x").unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::write(root.join("sub/file"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
        set_times(&root, 1_000).unwrap();
        let time = |path: &Path| {
            let modified = fs::symlink_metadata(path).unwrap().modified().unwrap();
            modified
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_secs()
        };
        for path in ["", "sub", "sub/file", "link"] {
            assert_eq!(time(&root.join(path)), 1_000, "{path}");
        }
        assert!(time(&outside) > 1_000);
    }
}
