//! How much may be written: reserved before the first byte, given back when it failed or is counted.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use slipway_core::disk::Room;

/// The quota of who named none: this many bytes, or half of the file system if that is less.
const QUOTA_MAX: u64 = 100 << 30;
/// Share of the file system (percent) that stays free: above what an agent asks for before it takes a
/// stage, so that the cache is never the reason why it takes none.
const FLOOR: u64 = 20;
/// Bytes of the file system that are never touched: what runs full loses more than a cache.
const LAST: u64 = 64 << 20;

/// The bookkeeping.
pub(crate) struct Space {
    quota: u64,
    reserved: AtomicU64,
}

impl Space {
    pub(super) fn new(handle: &File, quota: u64) -> Self {
        let quota = match quota {
            0 => QUOTA_MAX.min(room(handle).usable / 2),
            quota => quota,
        };
        Self {
            quota,
            reserved: AtomicU64::new(0),
        }
    }

    pub(crate) fn quota(&self) -> u64 {
        self.quota
    }

    pub(crate) fn reserved(&self) -> u64 {
        self.reserved.load(Ordering::Relaxed)
    }

    pub(super) fn reserve(&self, handle: &File, used: u64, bytes: u64) -> bool {
        let free = room(handle).free;
        let fits = |reserved: u64| {
            let wanted = reserved.checked_add(bytes)?;
            let good = used.checked_add(wanted)? <= self.quota && wanted.checked_add(LAST)? <= free;
            good.then_some(wanted)
        };
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        self.reserved.fetch_update(success, failure, fits).is_ok()
    }

    pub(super) fn give_back(&self, bytes: u64) {
        let less = |reserved: u64| Some(reserved.saturating_sub(bytes));
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        let _always = self.reserved.fetch_update(success, failure, less);
    }

    pub(super) fn missing(&self, handle: &File) -> u64 {
        let room = room(handle);
        (room.usable / 100 * FLOOR).saturating_sub(room.free)
    }
}

/// Unknown counts as endless: the write itself will tell.
fn room(handle: &File) -> Room {
    match rustix::fs::fstatvfs(handle) {
        Ok(stat) => Room::of(stat.f_blocks, stat.f_bfree, stat.f_bavail, stat.f_frsize),
        Err(_) => Room {
            free: u64::MAX,
            usable: 0,
        },
    }
}
