//! What "free" means of a file system: one rule for the agent that reports it, for the cache that keeps
//! below it and for the doctor. Does not ask the system; who does hands in what `statvfs` said.

/// What one file system holds, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// May still be written by a process that is not privileged.
    pub free: u64,
    /// What `free` is a share of: what is in use and what may still be written.
    pub usable: u64,
}

impl Room {
    /// Of the counts of POSIX `statvfs` (`f_blocks`, `f_bfree`, `f_bavail`) and the size of a block in bytes.
    ///
    /// What is set aside for root is no part of the disk, as in the percentage of `df`: a provider who
    /// sets most of a large disk aside must not make an empty one look full.
    #[must_use]
    pub fn of(blocks: u64, unused: u64, available: u64, block: u64) -> Self {
        let used = blocks.saturating_sub(unused);
        Self {
            free: available.saturating_mul(block),
            usable: used.saturating_add(available).saturating_mul(block),
        }
    }

    /// Free share, percent; of a file system without any size 100: the write itself will tell.
    #[must_use]
    pub fn percent(self) -> u64 {
        let (free, usable) = (u128::from(self.free), u128::from(self.usable));
        let share = (free * 100).checked_div(usable).unwrap_or(100);
        u64::try_from(share).unwrap_or(100).min(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_aside_for_root_is_neither_used_nor_usable() {
        // 252 GiB of which 161 are set aside, 57 in use: a third of the rest is free, not 14 % of all.
        let room = Room::of(252, 195, 34, 1 << 30);
        assert_eq!(room.usable, 91 << 30);
        assert_eq!(room.percent(), 37);
    }

    #[test]
    fn a_full_disk_has_nothing_free_and_an_endless_one_is_free() {
        assert_eq!(Room::of(100, 5, 0, 4096).percent(), 0);
        assert_eq!(Room::of(0, 0, 0, 4096).percent(), 100);
        assert_eq!(Room::of(u64::MAX, 0, u64::MAX, u64::MAX).percent(), 100);
    }
}
