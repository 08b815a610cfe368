//! What a stage may have left in its workspace, and what of it is kept.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;

use slipway_core::cache::manifest::Entry;

use super::*;
use crate::blobs::{Disk, Durable};
use crate::index::MemoryIndex;

fn captured(directory: &Path) -> Captured {
    let store = tempfile::tempdir().unwrap();
    let index = Arc::new(MemoryIndex::default());
    let disk = Disk::open(store.path(), index, 1 << 30).unwrap();
    let mut batch = disk.batch();
    let captured = capture(directory, &Known::new(), false, &mut batch).unwrap();
    batch.commit(Durable::Later).unwrap();
    captured
}

fn paths(captured: &Captured) -> Vec<String> {
    captured
        .tree
        .entries()
        .map(|(path, _)| path.to_owned())
        .collect()
}

#[test]
fn hostile_h067_fifos_sockets_and_devices_are_left_out_with_a_note_and_never_opened() {
    use rustix::fs::{FileType, Mode, mknodat};
    let folder = tempfile::tempdir().unwrap();
    let root = std::fs::File::open(folder.path()).unwrap();
    let mode = Mode::from_raw_mode(0o644);
    // A FIFO that is opened for reading waits for ever.
    mknodat(&root, "fifo", FileType::Fifo, mode, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    // Only root can make one: where it may, it is the memory device that nobody reads either.
    let device = rustix::fs::makedev(1, 5);
    let made = mknodat(&root, "zero", FileType::CharacterDevice, mode, device).is_ok();
    std::fs::write(folder.path().join("good"), "x").unwrap();
    let captured = captured(folder.path());
    assert_eq!(paths(&captured), ["good"]);
    let special = if made { 3 } else { 2 };
    assert_eq!(captured.notes.len(), special, "{:?}", captured.notes);
}

#[test]
fn hostile_h068_of_a_mode_only_the_owners_x_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    for (name, mode) in [
        ("setuid", 0o4755),
        ("sticky", 0o1644),
        ("open", 0o666),
        ("none", 0o400),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, name).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let captured = captured(folder.path());
    let executable = |name: &str| match captured.tree.get(name) {
        Some(Entry::File { executable, .. }) => *executable,
        other => panic!("{name}: {other:?}"),
    };
    assert!(executable("setuid"));
    assert!(!executable("sticky") && !executable("open") && !executable("none"));
}

#[test]
fn hostile_h069_what_a_file_says_of_its_size_is_not_asked_only_what_is_read_counts() {
    let folder = tempfile::tempdir().unwrap();
    let sparse = std::fs::File::create(folder.path().join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    let nested = "a tar in a tar is a file";
    std::fs::write(folder.path().join("nested.tar"), nested).unwrap();
    let captured = captured(folder.path());
    let size = |name: &str| match captured.tree.get(name) {
        Some(Entry::File { size, .. }) => *size,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(size("sparse"), 3 << 20);
    assert_eq!(size("nested.tar"), nested.len() as u64);
    assert_eq!(captured.tree.bytes(), (3 << 20) + nested.len() as u64);
}

#[test]
fn hostile_h070_hooks_and_settings_of_git_are_kept_for_nobody_who_did_not_ask() {
    let folder = tempfile::tempdir().unwrap();
    let hooks = folder.path().join(".git/hooks");
    std::fs::create_dir_all(&hooks).unwrap();
    std::fs::write(hooks.join("post-checkout"), "#!/bin/sh\nevil\n").unwrap();
    std::fs::write(folder.path().join(".git/config"), "[core]\n").unwrap();
    symlink(".git/config", folder.path().join("settings")).unwrap();
    std::fs::write(folder.path().join("good"), "x").unwrap();
    let captured = captured(folder.path());
    assert!(
        paths(&captured)
            .iter()
            .all(|path| !path.starts_with(".git")),
        "{:?}",
        paths(&captured)
    );
    assert!(captured.tree.get("good").is_some());
}
