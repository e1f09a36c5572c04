//! How much memory a session may take unless the caller says otherwise.

use std::fs;
use std::path::Path;

/// Three quarters of what this process can have: of the smallest memory limit of its control groups,
/// or of the machine's memory where there is none. `None` where neither can be read.
pub fn default_arena_bytes() -> Option<usize> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|t| total(&t));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = groups.lines().flat_map(limit_files).filter_map(|file| read_limit(&file)).min();
    let bytes = [machine, limit].into_iter().flatten().min()?;
    Some(usize::try_from(bytes / 4 * 3).unwrap_or(usize::MAX))
}

/// `MemTotal` in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The limit files of one line of `/proc/self/cgroup` (`id:controllers:path`), from the group itself up
/// to the root: a limit of any of them binds.
fn limit_files(line: &str) -> Vec<String> {
    let mut fields = line.splitn(3, ':');
    let (Some(id), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
    else {
        return Vec::new();
    };
    let (root, file) = if id == "0" && controllers.is_empty() {
        ("/sys/fs/cgroup", "memory.max")
    } else if controllers.split(',').any(|c| c == "memory") {
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
    } else {
        return Vec::new();
    };
    Path::new(path)
        .ancestors()
        .map(|group| format!("{root}/{}/{file}", group.display().to_string().trim_matches('/')))
        .collect()
}

/// The number in a limit file; `max` and unreadable files are no limit.
fn read_limit(file: &str) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_kib() {
        assert_eq!(total("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(total("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn every_ancestor_of_a_group_may_limit() {
        assert_eq!(
            limit_files("0::/a/b"),
            [
                "/sys/fs/cgroup/a/b/memory.max",
                "/sys/fs/cgroup/a/memory.max",
                "/sys/fs/cgroup//memory.max"
            ]
        );
        assert_eq!(
            limit_files("4:cpu,memory:/x")[0],
            "/sys/fs/cgroup/memory/x/memory.limit_in_bytes"
        );
        assert!(limit_files("5:pids:/x").is_empty());
        assert!(limit_files("nonsense").is_empty());
    }
}
