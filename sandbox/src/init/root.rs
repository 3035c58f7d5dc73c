//! The private root of a mount namespace.
//!
//! The new root is a small tmpfs, read-only in the end: directories of the host appear in it as
//! read-only binds, and the program can write to one tmpfs alone, of which `/workspace`, `/tmp` and
//! `/dev/shm` are parts, so that one size bounds them together. The old root is detached, so that
//! nothing of the host can be named any more.
//!
//! The binds are opened before anything is mounted and attached afterwards: the place over which
//! the new root is mounted may hide one of them.

#![expect(
    unsafe_code,
    reason = "system calls that the C library has no names for"
)]

use super::files::private_directory;
use super::{Done, User, at, item};
use crate::plan::{Bind, Root};
use crate::sys::{self, Errno, Sys};
use crate::wire::Step;
use std::ffi::CStr;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

const HERE: RawFd = libc::AT_FDCWD;
const AT_RECURSIVE: i32 = 0x8000;
const OPEN_TREE_CLONE: i32 = 1;
const MOVE_MOUNT_F_EMPTY_PATH: usize = 4;
const MOVE_MOUNT_T_EMPTY_PATH: usize = 0x40;
const ATTR_RDONLY: u64 = 1;
const ATTR_NOSUID: u64 = 2;
const ATTR_NODEV: u64 = 4;
/// Paths of the new root: within it, without links.
const INSIDE: u64 = sys::BENEATH | sys::NO_SYMLINKS | sys::NO_MAGICLINKS;
const SCRATCH: &CStr = c"workspace";

/// `struct mount_attr` of `mount_setattr`.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Builds the root and makes it this process's. Gives the error for which it has no `/proc`, 0 if it
/// has one.
pub(super) fn build(root: &Root, user: User) -> Done<i32> {
    let private = libc::MS_REC | libc::MS_PRIVATE;
    mount(c"none", c"/", None, private, None).map_err(at(Step::PrivateMounts))?;
    for (index, bind) in root.binds.iter().enumerate() {
        let step = match bind.granted {
            Some(_) => Step::OpenGrant,
            None => Step::OpenTree,
        };
        open(bind).map_err(item(step, index))?;
    }
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    mount(
        c"tmpfs",
        &root.base,
        Some(c"tmpfs"),
        flags,
        Some(c"mode=0755,size=1m"),
    )
    .map_err(at(Step::RootMount))?;
    sys::chdir(&root.base).map_err(at(Step::RootMount))?;
    skeleton(root, user)?;
    scratch(root, user)?;
    let no_proc = proc()?;
    terminals();
    for (index, bind) in root.binds.iter().enumerate() {
        let step = match bind.granted {
            Some(_) => Step::AttachGrant,
            None => Step::Attach,
        };
        attach(bind, user).map_err(item(step, index))?;
    }
    pivot().map_err(at(Step::PivotRoot))?;
    set_attributes(HERE, c"/", 0, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV)
        .map_err(at(Step::ReadOnlyRoot))?;
    Ok(no_proc)
}

/// Opens a detached copy of a part of the host's tree, with its mounts.
fn open(bind: &Bind) -> Sys<()> {
    let recursive = if bind.directory { AT_RECURSIVE } else { 0 };
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC | recursive;
    let tree = if bind.without_links {
        let resolve = sys::NO_SYMLINKS | sys::NO_MAGICLINKS;
        let file = sys::openat2(HERE, &bind.source, libc::O_PATH, resolve)?;
        let tree =
            is_judged(bind, file).and_then(|()| open_tree(file, c"", flags | libc::AT_EMPTY_PATH));
        sys::close(file);
        tree?
    } else {
        open_tree(HERE, &bind.source, flags)?
    };
    bind.tree.store(tree, Ordering::Relaxed);
    let mut attributes = ATTR_NOSUID;
    if !bind.writable {
        attributes |= ATTR_RDONLY;
    }
    if !bind.device {
        attributes |= ATTR_NODEV;
    }
    set_attributes(tree, c"", libc::AT_EMPTY_PATH | recursive, attributes)
}

/// Whether this is the file that was judged, where it was held open since.
fn is_judged(bind: &Bind, file: RawFd) -> Sys<()> {
    let Some((judged, _)) = &bind.granted else {
        return Ok(());
    };
    match sys::file_id(file)? == (judged.device, judged.inode) {
        true => Ok(()),
        false => Err(Errno(libc::ESTALE)),
    }
}

fn skeleton(root: &Root, user: User) -> Done {
    for (index, directory) in root.directories.iter().enumerate() {
        sys::mkdirat(HERE, directory, 0o755).map_err(item(Step::Directory, index))?;
    }
    for (index, (target, path)) in root.links.iter().enumerate() {
        sys::symlinkat(target, HERE, path).map_err(item(Step::Symlink, index))?;
    }
    for (index, (path, content)) in root.files.iter().enumerate() {
        create(path, &[content]).map_err(item(Step::SyntheticFile, index))?;
    }
    // The program's own user is only known here. Other names are not the program's business.
    let (mut uid, mut gid) = ([0; 10], [0; 10]);
    let (uid, gid) = (decimal(user.uid, &mut uid), decimal(user.gid, &mut gid));
    let passwd: &[&[u8]] = &[
        b"sandbox:x:",
        uid,
        b":",
        gid,
        b":sandbox:/workspace:/bin/sh\n",
    ];
    create(c"etc/passwd", passwd).map_err(at(Step::SyntheticFile))?;
    let group: &[&[u8]] = &[b"sandbox:x:", gid, b":\n"];
    create(c"etc/group", group).map_err(at(Step::SyntheticFile))
}

fn create(path: &CStr, parts: &[&[u8]]) -> Sys<()> {
    let fd = sys::openat(
        HERE,
        path,
        libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL,
        0o644,
    )?;
    let result = parts.iter().try_for_each(|part| sys::write_all(fd, part));
    sys::close(fd);
    result
}

/// The decimal digits of a number.
pub(super) fn decimal(mut number: u32, buffer: &mut [u8; 10]) -> &[u8] {
    let mut start = buffer.len();
    for (index, slot) in buffer.iter_mut().enumerate().rev() {
        *slot = b'0'.saturating_add(u8::try_from(number % 10).unwrap_or(0));
        start = index;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    buffer.get(start..).unwrap_or_default()
}

/// What the program can write to.
fn scratch(root: &Root, user: User) -> Done {
    let failed = at(Step::Workspace);
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    mount(
        c"tmpfs",
        SCRATCH,
        Some(c"tmpfs"),
        flags,
        Some(&root.scratch),
    )
    .map_err(&failed)?;
    if root.no_room {
        fill().map_err(&failed)?;
    }
    // The workspace comes last: it covers the whole, which needs no name any more. To unmount that
    // instead would wait for all processors.
    let parts: [(&CStr, &CStr); 3] = [
        (c"workspace/tmp", c"tmp"),
        (c"workspace/shm", c"dev/shm"),
        (c"workspace/workspace", c"workspace"),
    ];
    for (source, target) in parts {
        private_directory(HERE, source, user).map_err(&failed)?;
        let tree = open_tree(HERE, source, OPEN_TREE_CLONE | libc::O_CLOEXEC).map_err(&failed)?;
        let attached = move_mount(tree, HERE, target);
        sys::close(tree);
        attached.map_err(&failed)?;
    }
    Ok(())
}

/// Takes the one page that a tmpfs has at least, with a file that has no name. It stays open in
/// the supervisor.
fn fill() -> Sys<()> {
    let fd = sys::openat(HERE, SCRATCH, libc::O_TMPFILE | libc::O_WRONLY, 0o600)?;
    sys::write_all(fd, &[0])
}

/// A `/proc` of the sandbox's own process namespace. In a container whose own `/proc` is partly
/// covered the kernel refuses it; then there is none, which most programs do without, and the error is
/// given, for the report.
fn proc() -> Done<i32> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let hidden = mount(c"proc", c"proc", Some(c"proc"), flags, Some(c"hidepid=2"));
    match hidden {
        Ok(()) => HIDDEN
            .iter()
            .try_for_each(|file| hide(file))
            .map(|()| 0)
            .map_err(at(Step::Proc)),
        Err(Errno(errno @ (libc::EPERM | libc::EACCES | libc::EBUSY | libc::EINVAL))) => Ok(errno),
        Err(errno) => Err(at(Step::Proc)(errno)),
    }
}

/// Terminals of the sandbox's own: an instance of the file system that shares none with the host's.
/// Where the kernel gives none there are none, which most programs do without.
fn terminals() {
    let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
    let options = c"mode=0600,ptmxmode=0666,max=64";
    let _ = mount(c"devpts", c"dev/pts", Some(c"devpts"), flags, Some(options));
}

/// What a `/proc` shows of the host in every namespace: keys of the caller's keyrings and other
/// users' counts of them, locks on others' files, the kernel's addresses and boot parameters.
const HIDDEN: &[&CStr] = &[
    c"proc/keys",
    c"proc/key-users",
    c"proc/locks",
    c"proc/kallsyms",
    c"proc/cmdline",
];

/// Covers a file with a device that cannot be opened.
fn hide(file: &CStr) -> Sys<()> {
    match mount(c"/dev/null", file, None, libc::MS_BIND, None) {
        Ok(()) => {}
        // The kernel was built without what it shows.
        Err(Errno(libc::ENOENT)) => return Ok(()),
        Err(errno) => return Err(errno),
    }
    set_attributes(HERE, file, 0, ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV)
}

fn attach(bind: &Bind, user: User) -> Sys<()> {
    if !bind.exists {
        make_place(bind, user)?;
    }
    let tree = bind.tree.swap(-1, Ordering::Relaxed);
    let result = if bind.granted.is_none() {
        move_mount(tree, HERE, &bind.target)
    } else {
        // Where a grant goes is the caller's choice, and a program before this one may have left
        // links in what is mounted there. None leads elsewhere, least of all out of the new root.
        sys::openat2(HERE, &bind.target, libc::O_PATH, INSIDE).and_then(|place| {
            let moved = move_mount(tree, place, c"");
            sys::close(place);
            moved
        })
    };
    sys::close(tree);
    result
}

/// Makes what a bind is attached to, and the directories above it.
fn make_place(bind: &Bind, user: User) -> Sys<()> {
    let parents = bind.parents.iter().map(|parent| (parent, true));
    let all = parents.chain([(&bind.target, bind.directory)]);
    for (path, directory) in all {
        let path = path.as_c_str();
        // To be passed through, not to be listed: the names on the way to an interpreter in
        // somebody's home directory are nobody else's business.
        let closed = path != bind.target.as_c_str() && !bind.in_scratch;
        let (above, name) = match bind.granted {
            Some(_) => open_parent(path)?,
            None => (HERE, path),
        };
        let made = match (directory, closed) {
            (true, true) => sys::mkdirat(above, name, 0o711),
            (true, false) => sys::mkdirat(above, name, 0o755),
            (false, _) => {
                let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
                sys::openat(above, name, flags, 0o444).map(sys::close)
            }
        };
        let made = match made {
            Ok(()) if bind.in_scratch => {
                sys::fchownat(above, name, user.uid, user.gid, libc::AT_SYMLINK_NOFOLLOW)
            }
            Err(Errno(libc::EEXIST)) => Ok(()),
            other => other,
        };
        if above != HERE {
            sys::close(above);
        }
        made?;
    }
    Ok(())
}

/// Opens the directory above a relative path, and gives it with the path's last part.
fn open_parent(path: &CStr) -> Sys<(RawFd, &CStr)> {
    let bytes = path.to_bytes_with_nul();
    let Some(slash) = bytes.iter().rposition(|byte| *byte == b'/') else {
        return Ok((sys::openat2(HERE, c".", libc::O_PATH, INSIDE)?, path));
    };
    let (above, name) = bytes.split_at_checked(slash).ok_or(Errno(libc::EINVAL))?;
    // No allocation: the path above is copied to where a NUL can follow it.
    let mut buffer = [0; libc::PATH_MAX as usize];
    let copy = buffer
        .get_mut(..above.len())
        .ok_or(Errno(libc::ENAMETOOLONG))?;
    copy.copy_from_slice(above);
    let above = CStr::from_bytes_until_nul(&buffer).map_err(|_nul| Errno(libc::ENAMETOOLONG))?;
    let name = name.get(1..).unwrap_or_default();
    let name = CStr::from_bytes_with_nul(name).map_err(|_nul| Errno(libc::EINVAL))?;
    Ok((sys::openat2(HERE, above, libc::O_PATH, INSIDE)?, name))
}

/// Makes the working directory the root and lets go of the old one. Where the old root cannot be
/// moved away, as in an initramfs, it is covered instead; without `CAP_SYS_CHROOT`, which the
/// program never has, nothing leads back.
fn pivot() -> Sys<()> {
    let dot = c".".as_ptr() as usize;
    // SAFETY: both paths are constants that end with NUL.
    match unsafe { sys::call(libc::SYS_pivot_root, [dot, dot]) } {
        Ok(_) => umount_detached(c".")?,
        Err(Errno(libc::EINVAL)) => {
            mount(c".", c"/", None, libc::MS_MOVE, None)?;
            // SAFETY: the path is a constant that ends with NUL.
            unsafe { sys::call(libc::SYS_chroot, [dot]) }?;
        }
        Err(errno) => return Err(errno),
    }
    sys::chdir(c"/")
}

fn mount(
    source: &CStr,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    data: Option<&CStr>,
) -> Sys<()> {
    let at = |text: Option<&CStr>| text.map_or(0, |text| text.as_ptr() as usize);
    let flags = usize::try_from(flags).unwrap_or(0);
    let args = [
        at(Some(source)),
        at(Some(target)),
        at(kind),
        flags,
        at(data),
    ];
    // SAFETY: every string ends with NUL and outlives the call.
    unsafe { sys::call(libc::SYS_mount, args) }.map(drop)
}

fn umount_detached(target: &CStr) -> Sys<()> {
    let args = [target.as_ptr() as usize, sys::signed(libc::MNT_DETACH)];
    // SAFETY: `target` ends with NUL and outlives the call.
    unsafe { sys::call(libc::SYS_umount2, args) }.map(drop)
}

fn open_tree(dir: RawFd, path: &CStr, flags: i32) -> Sys<RawFd> {
    let args = [sys::signed(dir), path.as_ptr() as usize, sys::signed(flags)];
    // SAFETY: `path` ends with NUL and outlives the call.
    let fd = unsafe { sys::call(libc::SYS_open_tree, args) }?;
    RawFd::try_from(fd).map_err(|_range| Errno(libc::EBADF))
}

/// An empty `target` is the place that `dir` itself stands for.
fn move_mount(tree: RawFd, dir: RawFd, target: &CStr) -> Sys<()> {
    let mut flags = MOVE_MOUNT_F_EMPTY_PATH;
    if target.is_empty() {
        flags |= MOVE_MOUNT_T_EMPTY_PATH;
    }
    let args = [
        sys::signed(tree),
        c"".as_ptr() as usize,
        sys::signed(dir),
        target.as_ptr() as usize,
        flags,
    ];
    // SAFETY: both strings end with NUL and outlive the call.
    unsafe { sys::call(libc::SYS_move_mount, args) }.map(drop)
}

fn set_attributes(dir: RawFd, path: &CStr, flags: i32, attributes: u64) -> Sys<()> {
    let attr = MountAttr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let args = [
        sys::signed(dir),
        path.as_ptr() as usize,
        sys::signed(flags),
        &raw const attr as usize,
        size_of::<MountAttr>(),
    ];
    // SAFETY: `path` ends with NUL; the kernel reads one `MountAttr`, which outlives the call.
    unsafe { sys::call(libc::SYS_mount_setattr, args) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_decimal() {
        for (number, text) in [(0, "0"), (7, "7"), (1000, "1000"), (u32::MAX, "4294967295")] {
            assert_eq!(decimal(number, &mut [0; 10]), text.as_bytes());
        }
    }
}
