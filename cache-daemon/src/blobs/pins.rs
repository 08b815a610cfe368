//! What must not be evicted, and until when: one small file per attempt, so that it survives the
//! process.
//!
//! `attempts/<name>/pin` holds what an attempt was laid out from; its agent renews it. `output` holds
//! what it left, for the stages that need it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use slipway_core::digest::Digest;
use slipway_core::time::Timestamp;

/// How long a pin holds unless it is renewed.
pub(crate) const PIN: Duration = Duration::from_secs(600);
/// How long an output is kept for stages of the same build that did not begin yet.
pub(crate) const OUTPUT: Duration = Duration::from_secs(6 * 3_600);
/// Digests of one pin: a root and its layers.
const DIGESTS_MAX: usize = 1_000;
/// Letters of a name.
const NAME_MAX: usize = 100;

/// Which file of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    Input,
    Output,
}

impl Held {
    fn file(self) -> &'static str {
        match self {
            Self::Input => "pin",
            Self::Output => "output",
        }
    }
}

/// A pin that holds.
pub(crate) struct Pin {
    pub(crate) held: Held,
    pub(crate) until: Timestamp,
    pub(crate) digests: Vec<Digest>,
}

/// The folder of pins.
pub(crate) struct Pins {
    folder: PathBuf,
}

/// Whether it can be a folder's name: never a piece of a path.
fn is_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(good)
}

impl Pins {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            folder: root.join("attempts"),
        }
    }

    pub(crate) fn hold(
        &self,
        name: &str,
        held: Held,
        digests: &[Digest],
        until: Timestamp,
    ) -> io::Result<()> {
        if !is_name(name) || digests.len() > DIGESTS_MAX {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let lines: Vec<String> = digests.iter().map(Digest::to_string).collect();
        let text = format!("{}\n{}\n", until.as_millis(), lines.join("\n"));
        let beside = folder.join(format!("{}.new", held.file()));
        std::fs::write(&beside, text)?;
        std::fs::rename(beside, folder.join(held.file()))
    }

    /// Keeps a pin for longer; one that is gone is not made again.
    pub(crate) fn renew(&self, name: &str, until: Timestamp) -> bool {
        let pin = is_name(name)
            .then(|| self.read(name, Held::Input))
            .flatten();
        pin.is_some_and(|pin| self.hold(name, Held::Input, &pin.digests, until).is_ok())
    }

    /// An attempt is over: what it was laid out from may go.
    pub(crate) fn release(&self, name: &str) {
        if is_name(name) {
            let folder = self.folder.join(name);
            let _gone = std::fs::remove_file(folder.join(Held::Input.file()));
            // Only when it held no output either.
            let _stays = std::fs::remove_dir(folder);
        }
    }

    fn read(&self, name: &str, held: Held) -> Option<Pin> {
        let text = std::fs::read_to_string(self.folder.join(name).join(held.file())).ok()?;
        let mut lines = text.lines();
        let until = Timestamp::from_millis(lines.next()?.parse().ok()?);
        let digests = lines.filter_map(|line| line.parse().ok());
        Some(Pin {
            held,
            until,
            digests: digests.take(DIGESTS_MAX).collect(),
        })
    }

    /// What holds now; what does not is removed.
    pub(crate) fn holding(&self, now: Timestamp) -> Vec<Pin> {
        let mut all = Vec::new();
        let folders = std::fs::read_dir(&self.folder).into_iter().flatten();
        for folder in folders.flatten() {
            let Ok(name) = folder.file_name().into_string() else {
                continue;
            };
            for held in [Held::Input, Held::Output] {
                match self.read(&name, held) {
                    Some(pin) if pin.until > now => all.push(pin),
                    _ => {
                        let _gone = std::fs::remove_file(folder.path().join(held.file()));
                    }
                }
            }
            let _unless_it_holds = std::fs::remove_dir(folder.path());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_outlives_its_process_and_ends_by_itself() {
        let root = tempfile::tempdir().unwrap();
        let at = Timestamp::from_millis;
        let digest = Digest::of(b"x");
        let pins = || Pins::new(root.path());
        pins().hold("s-1", Held::Input, &[digest], at(100)).unwrap();
        let found = pins().holding(at(99));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].digests, [digest]);
        assert!(pins().renew("s-1", at(200)));
        assert_eq!(pins().holding(at(150)).len(), 1);
        assert!(pins().holding(at(200)).is_empty());
        assert!(!pins().renew("s-1", at(300)), "what ended is not renewed");
    }

    #[test]
    fn an_output_stays_when_its_attempt_is_over() {
        let root = tempfile::tempdir().unwrap();
        let pins = Pins::new(root.path());
        let at = Timestamp::from_millis;
        for held in [Held::Input, Held::Output] {
            pins.hold("s-1", held, &[], at(100)).unwrap();
        }
        pins.release("s-1");
        let found = pins.holding(at(1));
        assert!(found.len() == 1 && found[0].held == Held::Output);
    }

    #[test]
    fn hostile_a_name_is_never_a_piece_of_a_path() {
        let root = tempfile::tempdir().unwrap();
        let pins = Pins::new(root.path());
        for name in ["", "..", "a/b", "../x", "a\0b", &"x".repeat(101)] {
            let held = pins.hold(name, Held::Input, &[], Timestamp::EPOCH);
            assert!(held.is_err(), "{name:?}");
            assert!(!pins.renew(name, Timestamp::EPOCH));
            pins.release(name);
        }
    }
}
