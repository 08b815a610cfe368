//! What this host can do, and how pressed it is.

use std::path::Path;

use slipway_core::disk::Room;
use slipway_proto::v1;
use sysinfo::System;

use crate::config::Config;

/// Processors, memory, and the disk that holds `data_dir`.
#[must_use]
pub fn facts(data_dir: &Path) -> v1::Facts {
    let mut system = System::new();
    system.refresh_memory();
    let room = room(data_dir);
    v1::Facts {
        cpus: cpus(),
        memory_bytes: system.total_memory(),
        disk_free_bytes: room.free,
        disk_total_bytes: room.usable,
        architecture: std::env::consts::ARCH.to_owned(),
        ..v1::Facts::default()
    }
}

/// Processors that this process may use.
#[must_use]
pub fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// Attempts at once: as many as the settings say, or one per processor.
pub(crate) fn slots(config: &Config) -> u32 {
    match config.slots {
        0 => cpus(),
        slots => slots,
    }
}

/// The host's name, for people.
#[must_use]
pub fn host_name() -> String {
    System::host_name().unwrap_or_else(|| "agent".to_owned())
}

/// The file system that holds a folder; nothing known of it leaves no room.
fn room(dir: &Path) -> Room {
    match rustix::fs::statvfs(dir) {
        Ok(stat) => Room::of(stat.f_blocks, stat.f_bfree, stat.f_bavail, stat.f_frsize),
        Err(_) => Room { free: 0, usable: 0 },
    }
}

/// How pressed the host is now.
#[must_use]
pub fn pressure(data_dir: &Path) -> v1::Pressure {
    let read = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/pressure/{name}")).unwrap_or_default();
        some_avg10(&text)
    };
    v1::Pressure {
        cpu: read("cpu"),
        memory: read("memory"),
        disk_free_bytes: room(data_dir).free,
    }
}

/// `some avg10=` of a pressure file; 0 on kernels without it.
fn some_avg10(text: &str) -> f32 {
    text.lines()
        .find_map(|line| line.strip_prefix("some "))
        .and_then(|line| line.split(' ').find_map(|part| part.strip_prefix("avg10=")))
        .and_then(|number| number.parse().ok())
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_the_ten_second_share_of_some() {
        let text = "some avg10=12.50 avg60=1.00 avg300=0.00 total=1\nfull avg10=99.00 total=1\n";
        assert!((some_avg10(text) - 12.5).abs() < f32::EPSILON);
        assert!(some_avg10("").abs() < f32::EPSILON);
    }

    #[test]
    fn this_host_has_processors_memory_and_a_disk() {
        let facts = facts(Path::new("/tmp"));
        assert!(facts.cpus > 0 && facts.memory_bytes > 0 && facts.disk_total_bytes > 0);
    }
}
