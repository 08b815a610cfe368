//! Where a container's first process stands: a path that is what it says.
//!
//! A folder of the kernel's may be a door: beneath `/proc/self/fd` lay the host's own root
//! (CVE-2024-21626). The engine takes any text, so it is refused here, whoever asked for it.

use crate::DockerError;

/// Folders that the kernel answers for.
const KERNEL: [&str; 3] = ["proc", "sys", "dev"];
/// Longest path that a kernel takes.
const PATH_MAX: usize = 4_096;

/// The folder to stand in: `path`, or the root when an image names none.
pub(crate) fn checked(path: &str) -> Result<&str, DockerError> {
    if path.is_empty() {
        return Ok("/");
    }
    match problem(path) {
        None => Ok(path),
        Some(problem) => Err(DockerError::Workdir {
            path: path.chars().take(200).collect(),
            problem,
        }),
    }
}

fn problem(path: &str) -> Option<&'static str> {
    if path.len() > PATH_MAX || path.chars().any(char::is_control) {
        return Some("it is too long or holds control characters");
    }
    let Some(inner) = path.strip_prefix('/') else {
        return Some("it is not absolute");
    };
    // Builders write `WORKDIR /app/` down as it stands: the same folder.
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if inner.is_empty() {
        return (path != "/").then_some("it is not normalised");
    }
    if inner.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Some("it is not normalised");
    }
    let first = inner.split('/').next().unwrap_or_default();
    KERNEL
        .contains(&first)
        .then_some("it lies in a folder of the kernel's")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_h037_a_working_directory_is_absolute_normalised_and_no_door_of_the_kernel() {
        for good in [
            "/",
            "/app",
            "/app/",
            "/srv/shop/api",
            "/process",
            "/a.b/..c",
        ] {
            assert_eq!(checked(good).ok(), Some(good), "{good}");
        }
        assert_eq!(checked("").ok(), Some("/"), "an image that names none");
        for bad in [
            "/proc/self/fd/8",
            "/proc/1/root",
            "/proc",
            "/proc/",
            "/sys/fs/cgroup",
            "/dev/fd/8",
            "../../..",
            "app",
            "./app",
            ".",
            "/app/../proc/1/root",
            "/app/./x",
            "//proc/self/fd/8",
            "//",
            "/app//x",
            "/app/..",
            "/app\0/proc",
            "/app\n",
            &format!("/{}", "a/".repeat(3_000)),
        ] {
            let refused = checked(bad).unwrap_err().to_string();
            assert!(refused.contains("WORKDIR"), "{bad}: {refused}");
            assert!(!refused.contains('\0'), "shown, not repeated: {refused}");
        }
    }
}
