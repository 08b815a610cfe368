//! Removes for good what was moved to `trash/`: in bursts with pauses, so that a stage's own writing
//! does not wait behind thousands of unlinks.

use std::path::Path;
use std::time::Duration;

/// Files removed at once …
const BURST: usize = 50;
/// … and how long nothing happens then.
const PAUSE: Duration = Duration::from_millis(150);

/// Empties the folder, until `stopping`; with pauses unless there is a hurry.
pub(crate) fn sweep(root: &Path, hurry: bool, stopping: impl Fn() -> bool) -> usize {
    let mut removed = 0;
    let names = std::fs::read_dir(root.join("trash")).into_iter().flatten();
    for file in names.flatten() {
        if stopping() {
            break;
        }
        let path = file.path();
        let gone = std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir_all(&path));
        removed += usize::from(gone.is_ok());
        if !hurry && removed % BURST == 0 {
            std::thread::sleep(PAUSE);
        }
    }
    removed
}
