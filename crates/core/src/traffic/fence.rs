//! Which change of a table is accepted: a stale coordinator is refused where it would act, not only
//! in the database.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Who asks, and for which of its changes. Tokens order owners; generations order one owner's
/// changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fence {
    /// Grows with every change of owner.
    pub token: u64,
    /// Grows with every change.
    pub generation: u64,
}

/// What was accepted last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Its fence.
    pub fence: Fence,
    /// The hash of its table.
    pub hash: Digest,
}

/// What becomes of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceAnswer {
    /// New: store it durably, then use it.
    Apply,
    /// The same change again: answer with the present state.
    Already,
    /// Another owner has been here since.
    StaleToken {
        /// Its token.
        seen: u64,
    },
    /// The same owner asked for something newer since.
    StaleGeneration {
        /// That generation.
        seen: u64,
    },
    /// The same fence with another table: somebody's books are wrong.
    Conflict,
}

/// Judges a change against what was accepted last.
#[must_use]
pub fn judge(last: Option<Seen>, asked: Fence, hash: Digest) -> FenceAnswer {
    let Some(last) = last else {
        return FenceAnswer::Apply;
    };
    if asked.token < last.fence.token {
        FenceAnswer::StaleToken {
            seen: last.fence.token,
        }
    } else if asked > last.fence {
        FenceAnswer::Apply
    } else if asked < last.fence {
        FenceAnswer::StaleGeneration {
            seen: last.fence.generation,
        }
    } else if hash == last.hash {
        FenceAnswer::Already
    } else {
        FenceAnswer::Conflict
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fence(token: u64, generation: u64) -> Fence {
        Fence { token, generation }
    }

    #[test]
    fn every_row_of_the_rule_holds() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let last = Some(Seen {
            fence: fence(5, 7),
            hash: one,
        });
        assert_eq!(judge(None, fence(0, 0), one), FenceAnswer::Apply);
        assert_eq!(
            judge(last, fence(4, 99), one),
            FenceAnswer::StaleToken { seen: 5 }
        );
        assert_eq!(
            judge(last, fence(5, 6), one),
            FenceAnswer::StaleGeneration { seen: 7 }
        );
        assert_eq!(judge(last, fence(5, 7), one), FenceAnswer::Already);
        assert_eq!(judge(last, fence(5, 7), two), FenceAnswer::Conflict);
        assert_eq!(judge(last, fence(5, 8), one), FenceAnswer::Apply);
        // A new owner's generations need not be above the old owner's.
        assert_eq!(judge(last, fence(6, 1), two), FenceAnswer::Apply);
    }

    proptest! {
        #[test]
        fn what_was_accepted_never_goes_backwards(
            asks in proptest::collection::vec((0_u64..4, 0_u64..4, 0_u8..2), 1..40)
        ) {
            let mut last: Option<Seen> = None;
            for (token, generation, content) in asks {
                let (asked, hash) = (fence(token, generation), Digest::of(&[content]));
                if judge(last, asked, hash) == FenceAnswer::Apply {
                    prop_assert!(last.is_none_or(|seen| asked > seen.fence));
                    last = Some(Seen { fence: asked, hash });
                    prop_assert_eq!(judge(last, asked, hash), FenceAnswer::Already);
                }
            }
        }
    }
}
