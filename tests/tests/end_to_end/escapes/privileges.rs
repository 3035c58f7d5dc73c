//! What the kernel would do with its own rights or with those of root: interfaces that hand them out,
//! files through which it is told to, programs that change the user.

use super::all;
use crate::refusals::{EPERM, HIDDEN, check};
use ringfence_tests::{Isolation, Lab, process};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The rest of interfaces that hand out privileges or large parts of the kernel: each is the
/// filter's to refuse.
pub(super) fn further_interfaces(lab: &Lab) {
    let refused = [
        "fsconfig",
        "fsmount",
        "io-uring-enter",
        "io-uring-register",
        "quotactl-by-descriptor",
        "adjust-clock-by-number",
        "personality-without-randomness",
        "mount-of-groups",
        "netfilter-socket",
        "netlink-socket-flags",
        "tcp-pair",
        "netlink-pair",
        "tipc-pair",
        "take-handle=/",
    ];
    let mut expected = all(&refused, EPERM);
    expected.extend(all(&["mounts-by-number"], &["refused ENOSYS"]));
    let places = [
        "make-device=./",
        "make-device=/tmp/",
        "make-device=/dev/shm/",
    ];
    let blocks = ["make-block-device=./", "make-block-device=/tmp/"];
    for name in places.iter().chain(&blocks) {
        expected.push(((*name).into(), &["refused EACCES", "refused EPERM"]));
    }
    check(lab, &expected);
}

/// Files of the kernel that every Linux has some of.
struct Kind {
    what: &'static str,
    /// Where they are, and how far below.
    places: &'static [&'static str],
    depth: usize,
    /// Those with these names alone, or all.
    names: &'static [&'static str],
    /// In a sandbox they cannot be read either.
    hidden: bool,
}

const KINDS: [Kind; 4] = [
    Kind {
        what: "settings",
        places: &[
            "/proc/sys/kernel",
            "/proc/sys/vm",
            "/proc/sys/fs",
            "/proc/sys/net/ipv4",
        ],
        depth: 2,
        names: &[],
        hidden: false,
    },
    Kind {
        what: "control groups",
        places: &["/sys/fs/cgroup"],
        depth: 3,
        names: &[
            "release_agent",
            "notify_on_release",
            "cgroup.procs",
            "cgroup.subtree_control",
            "tasks",
        ],
        hidden: true,
    },
    Kind {
        what: "devices",
        places: &["/sys/devices/system", "/sys/devices/virtual/mem"],
        depth: 3,
        names: &["uevent", "online"],
        hidden: true,
    },
    Kind {
        what: "switches of the kernel",
        places: &["/sys/kernel"],
        depth: 1,
        names: &[],
        hidden: true,
    },
];

impl Kind {
    /// Those that this machine has and that somebody may write to.
    fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut places: Vec<_> = self.places.iter().map(|path| (path.into(), 0)).collect();
        while let Some((place, depth)) = places.pop() {
            let place: PathBuf = place;
            let entries = fs::read_dir(&place).into_iter().flatten().flatten();
            for entry in entries {
                let named = entry.file_name();
                let wanted = self.names.is_empty() || self.names.iter().any(|name| *name == named);
                let Ok(metadata) = fs::symlink_metadata(entry.path()) else {
                    continue;
                };
                if metadata.is_dir() && depth < self.depth {
                    places.push((entry.path(), depth + 1));
                } else if metadata.is_file() && wanted && metadata.mode() & 0o222 != 0 {
                    found.push(entry.path());
                }
            }
        }
        assert!(!found.is_empty(), "this Linux has no {}", self.what);
        found.sort();
        // No more than a command line holds.
        found.truncate(400);
        found
    }
}

/// What the kernel does with the rights of root when somebody writes a path to it, and what it tells
/// of itself: what this machine has of it, and on others or in the guest what is known by name.
pub(super) fn files_of_the_kernel(lab: &Lab) {
    const WRITES: [&str; 21] = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/sys/kernel/randomize_va_space",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sysrq-trigger",
        "/proc/self/uid_map",
        "/proc/self/gid_map",
        "/proc/self/setgroups",
        "/proc/self/attr/exec",
        "/proc/self/oom_score_adj",
        "/proc/1/oom_score_adj",
        "/proc/1/exe",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/release_agent",
        "/sys/fs/cgroup/rdma/release_agent",
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/cgroup.subtree_control",
        "/sys/devices/system/cpu/cpu0/online",
    ];
    const READS: [&str; 11] = [
        "/proc/kcore",
        "/proc/kallsyms",
        "/proc/kmsg",
        "/proc/keys",
        "/proc/cmdline",
        "/dev/mem",
        "/dev/kmem",
        "/dev/kmsg",
        "/dev/port",
        "/dev/vda",
        "/sys/fs/cgroup/cgroup.procs",
    ];
    let refused: &[&str] = &["refused ENOENT", "refused EACCES", "refused EROFS"];
    let mut writes: BTreeSet<PathBuf> = WRITES.iter().map(PathBuf::from).collect();
    let mut reads: BTreeSet<PathBuf> = READS.iter().map(PathBuf::from).collect();
    if lab.isolation != Isolation::Vm {
        for kind in &KINDS {
            let files = kind.files();
            if kind.hidden {
                // How many processors there are can be read where no private root hides it.
                let known = |path: &Path| {
                    lab.isolation.is_bare() && path.starts_with("/sys/devices/system/cpu")
                };
                reads.extend(files.iter().filter(|path| !known(path)).cloned());
            }
            writes.extend(files);
        }
    }
    // What does not change by itself.
    let lasting = |path: &&PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or("");
        [
            "core_pattern",
            "modprobe",
            "overcommit_memory",
            "release_agent",
        ]
        .contains(&name)
    };
    let look = || -> Vec<_> {
        let lasting = writes.iter().filter(lasting);
        lasting.map(|path| fs::read(path).ok()).collect()
    };
    let before = look();
    let all_writes = writes.iter().map(|path| ("write", path, refused));
    let all_reads = reads.iter().map(|path| ("read", path, HIDDEN));
    let expected: Vec<_> = all_writes
        .chain(all_reads)
        .map(|(name, path, expected)| (format!("{name}={}", path.display()), expected))
        .collect();
    check(lab, &expected);
    assert_eq!(look(), before);
}

pub(super) fn no_root() -> Option<String> {
    if !process::is_root() {
        return Some("only root can make a file of root's set-user-ID".into());
    }
    let mount = rustix::fs::statvfs(std::env::temp_dir()).ok()?;
    let without = mount.f_flag.contains(rustix::fs::StatVfsMountFlags::NOSUID);
    without.then(|| "set-user-ID files mean nothing in the temporary directory (nosuid)".into())
}

/// A program that belongs to root and is set-user-ID and set-group-ID gives its user nothing.
pub(super) fn set_user_id(lab: &Lab) {
    const USER: u32 = 54322;
    let directory = lab.open_directory("granted");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    let program = directory.join("program");
    fs::copy(lab.outside_probe(), &program).unwrap();
    std::os::unix::fs::chown(&program, Some(0), Some(0)).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o6755)).unwrap();
    // Outside it makes anybody root.
    let mut outside = Command::new(&program);
    outside.arg("not-uid=0").uid(USER).gid(USER);
    assert_eq!(outside.output().unwrap().status.code(), Some(1));

    let path = program.to_str().unwrap();
    let run = lab.run([path, "not-uid=0", "capabilities", "set-fs-uid-0"]);
    run.option("--ro", &directory).outcome().assert_code(0);
}

/// The system's own programs that change the user or the tree of files are there and do nothing.
pub(super) fn programs_that_change_user(lab: &Lab) {
    let script = "for program in 'su -c true' 'sudo -n true' 'mount -t tmpfs none /tmp' \
                  'mount --bind / /tmp' 'umount /proc' 'newgrp root -c true' 'pkexec true' \
                  'unshare -Ur true' 'nsenter -t 1 -m true' 'chroot / true' 'setpriv --reuid 0 true'; do \
                  $program < /dev/null > /dev/null 2>&1 && echo \"$program works\"; done; id -u; exit 0";
    let outcome = lab.run(["sh", "-c", script]).outcome();
    outcome.assert_code(0);
    let text = outcome.text();
    assert!(
        text.trim().parse::<u32>().is_ok_and(|uid| uid != 0),
        "{outcome}"
    );
}
