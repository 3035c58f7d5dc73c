//! A control group of version 2 for each program, where the caller may make one.
//!
//! It is the only layer that bounds the memory and the processes of all descendants together and
//! that tells what they used. It is made as a child of the caller's own group, or beside it: a
//! group that holds processes cannot have children with controllers, unless it is the root.

use crate::Limits;
use crate::plan::Cgroup;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const CONTROLLERS: [&str; 2] = ["memory", "pids"];
const PREFIX: &str = "ringfence-";

/// The directory in which groups are made, or why none can be.
pub(crate) fn parent() -> &'static Result<PathBuf, String> {
    static PARENT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PARENT.get_or_init(|| {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let parent = find(&mounts, &own)?;
        sweep(&parent);
        Ok(parent)
    })
}

fn find(mounts: &str, own: &str) -> Result<PathBuf, String> {
    let (root, mount) = mounts.lines().find_map(cgroup2_mount).ok_or(
        "no cgroup v2 is mounted; mount it at /sys/fs/cgroup \
         (systemd.unified_cgroup_hierarchy=1)",
    )?;
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or("/");
    let below = Path::new(own).strip_prefix(root).unwrap_or(Path::new(""));
    let below = below.strip_prefix("/").unwrap_or(below);
    let group = Path::new(mount).join(below);
    let above = (!below.as_os_str().is_empty())
        .then(|| group.parent())
        .flatten();
    let mut why = String::new();
    for candidate in [Some(group.as_path()), above].into_iter().flatten() {
        match usable(candidate) {
            Ok(()) => return Ok(candidate.to_path_buf()),
            Err(reason) => why = reason,
        }
    }
    Err(why)
}

/// Root and mount point of a line of `mountinfo` that is a cgroup v2.
fn cgroup2_mount(line: &str) -> Option<(&str, &str)> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    kind.starts_with("cgroup2 ")
        .then_some((fields.next()?, fields.next()?))
}

fn usable(group: &Path) -> Result<(), String> {
    let enabled = fs::read_to_string(group.join("cgroup.subtree_control")).unwrap_or_default();
    let has = |name: &&str| {
        enabled
            .split_whitespace()
            .any(|controller| controller == *name)
    };
    if !CONTROLLERS.iter().all(has) {
        return Err(format!(
            "{group:?} gives its children no memory and pids controllers; run under a service \
             manager that delegates them (systemd-run --user --scope -p Delegate=yes), or boot \
             without cgroup v1"
        ));
    }
    let writable = OpenOptions::new()
        .write(true)
        .open(group.join("cgroup.procs"));
    writable
        .map(drop)
        .map_err(|error| format!("{group:?} cannot be written to: {error}"))
}

/// Removes groups whose caller and supervisor were both killed. They are empty, or cannot be
/// removed; one that is just being made belongs to a living process.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| {
            name.strip_prefix(PREFIX)?
                .split('-')
                .next()?
                .parse::<u32>()
                .ok()
        });
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Makes a group with these limits.
pub(crate) fn create(parent: &Path, limits: &Limits) -> io::Result<Cgroup> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{PREFIX}{}-{number}", std::process::id());
    let path = parent.join(&name);
    fs::create_dir(&path)?;
    let made = limit(&path, limits).and_then(|()| {
        Ok(Cgroup {
            parent: open(parent)?,
            directory: open(&path)?,
            name: CString::new(name).map_err(|_nul| io::ErrorKind::InvalidInput)?,
        })
    });
    if made.is_err() {
        let _ = fs::remove_dir(&path);
    }
    made
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(path);
    directory.map(File::into)
}

fn limit(group: &Path, limits: &Limits) -> io::Result<()> {
    let write = |file: &str, value: &str| {
        OpenOptions::new()
            .write(true)
            .open(group.join(file))?
            .write_all(value.as_bytes())
    };
    let number = |value: Option<u64>| match value {
        Some(value) if i64::try_from(value).is_ok() => value.to_string(),
        _ => "max".into(),
    };
    write("memory.max", &number(limits.memory))?;
    write(
        "pids.max",
        &number(limits.processes.filter(|count| *count < 1 << 22)),
    )?;
    write("memory.oom.group", "1")?;
    if limits.memory.is_some() {
        // Absent where the kernel has no swap accounting.
        match write("memory.swap.max", "0") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_among_others() {
        let line = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(cgroup2_mount(line), Some(("/", "/sys/fs/cgroup")));
        assert_eq!(cgroup2_mount("35 24 0:30 / /proc rw - proc proc rw"), None);
        assert_eq!(cgroup2_mount("nonsense"), None);
        assert!(find("", "0::/\n").is_err());
    }

    #[test]
    fn the_caller_s_group_or_the_one_above_it_is_used() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("agent");
        fs::create_dir(&own).unwrap();
        for (group, controllers) in [(root.path(), "cpu memory pids"), (own.as_path(), "")] {
            fs::write(group.join("cgroup.subtree_control"), controllers).unwrap();
            fs::write(group.join("cgroup.procs"), "").unwrap();
        }
        let mounts = format!(
            "35 24 0:30 / {} rw - cgroup2 none rw\n",
            root.path().display()
        );
        assert_eq!(find(&mounts, "0::/agent\n"), Ok(root.path().to_path_buf()));
        fs::write(own.join("cgroup.subtree_control"), "memory pids\n").unwrap();
        assert_eq!(find(&mounts, "0::/agent\n"), Ok(own));
        fs::write(root.path().join("cgroup.subtree_control"), "").unwrap();
        assert!(find(&mounts, "0::/\n").is_err());
    }
}
