//! Saved, torn, damaged and found again.

use super::*;

fn kept(token_floor: u64) -> Kept {
    Kept {
        token_floor,
        ..Kept::default()
    }
}

/// The state after `n` changes of three services in turn.
fn after(n: u64) -> State {
    let mut state = State::new();
    for change in 1..=n {
        state.insert(service(change), kept(change));
    }
    state
}

fn service(change: u64) -> String {
    format!("shop-{}", change % 3)
}

/// A folder with `n` changes, of which `whole` are followed by a new start (and with it by a whole copy).
fn folder(n: u64, whole: &[u64]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut file = StateFile::open(dir.path()).unwrap();
    assert_eq!(file.load(), (State::new(), None));
    for change in 1..=n {
        file.save(&service(change), &after(change)).unwrap();
        if whole.contains(&change) {
            file = StateFile::open(dir.path()).unwrap();
            assert_eq!(file.load(), (after(change), None));
        }
    }
    dir
}

fn load(dir: &tempfile::TempDir) -> (State, Option<String>) {
    StateFile::open(dir.path()).unwrap().load()
}

#[test]
fn what_was_saved_is_found_again_however_often_it_starts() {
    for n in 0..8 {
        assert_eq!(load(&folder(n, &[])), (after(n), None));
        assert_eq!(load(&folder(n, &[1, 2, 4])), (after(n), None));
    }
}

#[test]
fn a_whole_copy_damaged_at_any_length_costs_nothing() {
    let dir = folder(7, &[2, 5]);
    let path = dir.path().join("state");
    let whole = std::fs::read(&path).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let (got, trouble) = load(&dir);
        assert_eq!(got, after(7), "truncated to {length}");
        assert!(trouble.is_some());
    }
    let mut flipped = whole.clone();
    let last = flipped.len() - 3;
    flipped[last] ^= 1;
    std::fs::write(&path, &flipped).unwrap();
    assert_eq!(load(&dir).0, after(7));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(load(&dir), (after(7), None));
}

#[test]
fn a_log_torn_at_any_byte_ends_with_a_change_that_was_whole() {
    let dir = folder(6, &[2]);
    let path = dir.path().join("state.log");
    let log = std::fs::read(&path).unwrap();
    let written = log.iter().position(|byte| *byte == 0).unwrap();
    let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    for length in 0..=written {
        let mut torn = log[..length].to_vec();
        torn.resize(log.len(), 0);
        std::fs::write(&path, &torn).unwrap();
        // The third change made the whole copy, and is the log's first.
        assert_eq!(
            load(&dir).0,
            after(2 + lines(&torn).max(1)),
            "torn at {length}"
        );
    }
    // A change after a torn one goes into a new whole copy, not behind what cannot be read.
    let mut file = StateFile::open(dir.path()).unwrap();
    std::fs::write(&path, &log[..written - 1]).unwrap();
    let (mut state, trouble) = file.load();
    assert!(state == after(5) && trouble.is_some());
    state.insert("shop-9".to_owned(), kept(9));
    file.save("shop-9", &state).unwrap();
    assert_eq!(load(&dir).0, state);
}

#[test]
fn a_flipped_bit_in_a_log_hides_what_follows_and_says_so() {
    let dir = folder(6, &[2]);
    let path = dir.path().join("state.log");
    let mut log = std::fs::read(&path).unwrap();
    log[100] ^= 1;
    std::fs::write(&path, &log).unwrap();
    let (state, trouble) = load(&dir);
    assert_eq!(state, after(3));
    assert!(trouble.unwrap().contains("state.log: a change"));
}

#[test]
fn a_crash_between_any_two_renames_of_a_whole_copy_loses_nothing() {
    // The files as they are before the renames, one after another, by hand.
    let steps = [
        ("state", "state.previous"),
        ("state.log", "state.log.previous"),
        ("state.log.new", "state.log"),
        ("state.new", "state"),
    ];
    for done in 0..=steps.len() {
        let dir = folder(5, &[2]);
        let other = folder(5, &[2, 4]);
        for (from, to) in [("state", "state.new"), ("state.log", "state.log.new")] {
            std::fs::copy(other.path().join(from), dir.path().join(to)).unwrap();
        }
        for (from, to) in &steps[..done] {
            std::fs::rename(dir.path().join(from), dir.path().join(to)).unwrap();
        }
        assert_eq!(load(&dir), (after(5), None), "after {done} renames");
    }
}

#[test]
fn a_full_log_becomes_a_whole_copy() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = StateFile::open(dir.path()).unwrap();
    let mut state = State::new();
    let name = "s".repeat(100_000);
    for change in 1..=25 {
        state.insert(name.clone(), kept(change));
        file.save(&name, &state).unwrap();
        assert_eq!(load(&dir), (state.clone(), None));
    }
}

#[test]
fn a_state_of_before_there_was_a_log_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let json = serde_json::to_string(&after(2)).unwrap();
    let text = format!("{MAGIC_1} {}\n{json}", Digest::of(json.as_bytes()));
    std::fs::write(dir.path().join("state"), text).unwrap();
    let mut file = StateFile::open(dir.path()).unwrap();
    assert_eq!(file.load(), (after(2), None));
    file.save(&service(3), &after(3)).unwrap();
    assert_eq!(load(&dir), (after(3), None));
}
