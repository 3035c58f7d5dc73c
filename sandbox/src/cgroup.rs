//! A control group of version 2 for each program, where the caller may make one.
//!
//! It is the only layer that bounds memory, processes and processors of all descendants together
//! and that tells what they used. It is made as a child of the caller's own group, or beside it: a
//! group that holds processes cannot have children with controllers, unless it is the root.

use crate::Limits;
use crate::plan::Cgroup;
use rustix::fs::{Mode, OFlags};
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a group must have to be of use. The controller of processors is taken where it is there.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];
/// The kernel's own length of the periods in which the time of processors is dealt out, in
/// microseconds.
const PERIOD: u64 = 100_000;
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
    let (mount, group) = own_group(mounts, own).ok_or(
        "no cgroup v2 is mounted; mount it at /sys/fs/cgroup \
         (systemd.unified_cgroup_hierarchy=1)",
    )?;
    let above = (group != mount).then(|| group.parent()).flatten();
    let mut why = String::new();
    for candidate in [Some(group.as_path()), above].into_iter().flatten() {
        match usable(candidate) {
            Ok(()) => return Ok(candidate.to_path_buf()),
            Err(reason) => why = reason,
        }
    }
    Err(why)
}

/// Where cgroup v2 is mounted, and the caller's own group in it.
fn own_group<'a>(mounts: &'a str, own: &str) -> Option<(&'a Path, PathBuf)> {
    let (root, mount) = mounts.lines().find_map(cgroup2_mount)?;
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or("/");
    let below = Path::new(own).strip_prefix(root).unwrap_or(Path::new(""));
    let below = below.strip_prefix("/").unwrap_or(below);
    // The empty path would leave a slash at the end.
    let group = match below.as_os_str().is_empty() {
        true => mount.into(),
        false => Path::new(mount).join(below),
    };
    Some((Path::new(mount), group))
}

/// Processors' worth of time that the caller's own groups bound it to, rounded up, if they do.
/// Where no group with a cpu controller can be made, programs stay within it.
pub(crate) fn quota() -> Option<u64> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let (mount, group) = own_group(&mounts, &own)?;
    quota_of(mount, &group)
}

fn quota_of(mount: &Path, group: &Path) -> Option<u64> {
    let groups = group.ancestors().take_while(|one| one.starts_with(mount));
    let quotas = groups.filter_map(|one| {
        let text = fs::read_to_string(one.join("cpu.max")).ok()?;
        let (quota, period) = text.trim().split_once(' ')?;
        let period: NonZeroU64 = period.parse().ok()?;
        // One that is not bounded says "max".
        Some(quota.parse::<u64>().ok()?.div_ceil(period.get()))
    });
    quotas.min()
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

/// Gives the programs of a group at most so many processors' worth of time in each period. The file
/// is not there where the group has no cpu controller.
pub(crate) fn bound_processors(group: &Cgroup, count: u8) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&group.directory, "cpu.max", flags, Mode::empty())?;
    let value = format!("{} {PERIOD}", u64::from(count) * PERIOD);
    File::from(file).write_all(value.as_bytes())
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

    /// Files as a group of a kernel has them: written in place, never made.
    fn group(path: &Path, files: &[&str]) {
        fs::create_dir_all(path).unwrap();
        for file in files {
            fs::write(path.join(file), "").unwrap();
        }
    }

    #[test]
    fn processors_are_bounded_where_there_is_the_controller() {
        let root = tempfile::tempdir().unwrap();
        let made = |name: &str| {
            let path = root.path().join(name);
            Cgroup {
                parent: open(root.path()).unwrap(),
                directory: open(&path).unwrap(),
                name: CString::new(name).unwrap(),
            }
        };
        group(&root.path().join("with"), &["cpu.max"]);
        for (count, value) in [(1, "100000 100000"), (255, "25500000 100000")] {
            bound_processors(&made("with"), count).unwrap();
            let written = fs::read_to_string(root.path().join("with/cpu.max")).unwrap();
            assert_eq!(written, value);
        }
        group(&root.path().join("without"), &["memory.max"]);
        let error = bound_processors(&made("without"), 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_group_that_is_not_used_is_removed_and_one_in_use_stays() {
        let root = tempfile::tempdir().unwrap();
        for (files, stays) in [(&[][..], false), (&["cgroup.procs"], true)] {
            let path = root.path().join("group");
            group(&path, files);
            drop(Cgroup {
                parent: open(root.path()).unwrap(),
                directory: open(&path).unwrap(),
                name: c"group".into(),
            });
            assert_eq!(path.exists(), stays);
        }
    }

    #[test]
    fn the_narrowest_quota_of_the_own_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let mount = root.path().join("mount");
        let own = mount.join("a/b");
        group(&own, &[]);
        assert_eq!(quota_of(&mount, &own), None);
        fs::write(root.path().join("cpu.max"), "1 1\n").unwrap();
        fs::write(own.join("cpu.max"), "max 100000\n").unwrap();
        assert_eq!(quota_of(&mount, &own), None);
        fs::write(mount.join("a/cpu.max"), "350000 100000\n").unwrap();
        assert_eq!(quota_of(&mount, &own), Some(4));
        fs::write(own.join("cpu.max"), "100000 100000\n").unwrap();
        assert_eq!(quota_of(&mount, &own), Some(1));
        for nonsense in ["", "1", "1 0", "x y"] {
            fs::write(own.join("cpu.max"), nonsense).unwrap();
            assert_eq!(quota_of(&mount, &own), Some(4), "{nonsense}");
        }
    }
}
