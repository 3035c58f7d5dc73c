//! File systems of the guest.
//!
//! The root is a read-only squashfs on the first virtio-blk device. What has to be writable is in
//! memory: `/run`, `/tmp` and the device nodes. The initramfs is hidden below the root, and emptied
//! once the agent is on its way.

use super::root_device::DEVICE;
use super::{InitError, step};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Where the root is mounted in the initramfs before it becomes `/`.
const NEW_ROOT: &str = "/newroot";

/// One file system of the final tree.
struct Mount {
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    options: &'static CStr,
}

/// No set-uid programs, no programs at all, no device nodes.
const INERT: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

const MOUNTS: [Mount; 6] = [
    Mount {
        kind: "proc",
        target: "/proc",
        flags: INERT,
        options: c"",
    },
    Mount {
        kind: "sysfs",
        target: "/sys",
        flags: INERT,
        options: c"",
    },
    Mount {
        kind: "cgroup2",
        target: "/sys/fs/cgroup",
        flags: INERT,
        options: c"",
    },
    Mount {
        kind: "devpts",
        target: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: c"mode=0600,ptmxmode=0666",
    },
    Mount {
        kind: "tmpfs",
        target: "/run",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        options: c"mode=0755",
    },
    Mount {
        kind: "tmpfs",
        target: "/tmp",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        options: c"mode=1777",
    },
];

/// Device nodes, needed before anything else: the console and the root device.
pub(super) fn early() -> Result<(), InitError> {
    make_directory("/dev")?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    match mount("devtmpfs", "/dev", "devtmpfs", flags, Some(c"mode=0755")) {
        // Mounted by the kernel already.
        Ok(()) | Err(Errno::BUSY) => {}
        Err(error) => return Err(step("mount devtmpfs on /dev")(error)),
    }
    make_directory("/dev/pts")
}

/// Mounts the root file system, makes it `/` and mounts the rest in it. Returns the initramfs.
pub(super) fn root() -> Result<Initramfs, InitError> {
    let initramfs = open_directory(CWD, c"/").map_err(step("open the initramfs"))?;
    make_directory(NEW_ROOT)?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
    mount(DEVICE, NEW_ROOT, "squashfs", flags, Some(c""))
        .map_err(step(format!("mount the squashfs of {DEVICE}")))?;
    mount_move("/dev", format!("{NEW_ROOT}/dev")).map_err(step(
        "move /dev into the root file system, which must have that directory",
    ))?;
    rustix::process::chdir(NEW_ROOT).map_err(step("enter the root file system"))?;
    mount_move(".", "/").map_err(step("make the root file system the root"))?;
    rustix::process::chroot(".").map_err(step("change the root"))?;
    rustix::process::chdir("/").map_err(step("enter the root"))?;
    for Mount {
        kind,
        target,
        flags,
        options,
    } in &MOUNTS
    {
        mount(*kind, *target, *kind, *flags, Some(*options))
            .map_err(step(format!("mount {kind} on {target}")))?;
    }
    Ok(Initramfs(initramfs))
}

fn make_directory(path: &str) -> Result<(), InitError> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(step(format!("make the directory {path}"))(error)),
    }
}

/// The initramfs' root directory, which has no path any more.
#[derive(Debug)]
pub(super) struct Initramfs(OwnedFd);

impl Initramfs {
    /// Gives the memory of the files back. A file that stays costs memory and nothing else, so that
    /// failures do not matter. This binary's own pages go when it ends.
    pub(super) fn empty(self) {
        if let Ok(stat) = rustix::fs::fstat(&self.0) {
            empty(self.0.as_fd(), stat.st_dev, 8);
        }
    }
}

fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Removes what is in a directory, on its own file system only and to a bounded depth.
fn empty(directory: BorrowedFd<'_>, device: u64, depth: u8) {
    let Ok(entries) = Dir::read_from(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            let _kept = rustix::fs::unlinkat(directory, name, AtFlags::empty());
            continue;
        }
        let Ok(child) = open_directory(directory, name) else {
            continue;
        };
        let same = rustix::fs::fstat(&child).is_ok_and(|stat| stat.st_dev == device);
        if let Some(depth) = depth.checked_sub(1).filter(|_| same) {
            empty(child.as_fd(), device, depth);
            let _kept = rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR);
        }
    }
}
