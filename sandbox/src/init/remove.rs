//! Removes a directory tree without allocating and without recursion, whatever a hostile program
//! left in it: depth, number, names and modes are its choice.
//!
//! Two directories are open at a time. What lies deeper than one level is first moved up to the
//! top under a fresh name, so that a tree of any depth becomes a flat one; each directory moves at
//! most once. Links are never followed. Nobody else works in the tree any more.

#![expect(unsafe_code, reason = "getdents64 and renameat2")]

use super::root::decimal;
use crate::sys::{self, Errno, Sys, signed};
use std::ffi::CStr;
use std::os::fd::RawFd;

/// Names that the program happened to choose like ours are skipped; so many in a row are no chance.
const ATTEMPTS: u32 = 1 << 16;

const OPEN: i32 = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;

/// Removes the directory `name` in `parent`, which `top` is open on, with all that is in it.
pub(crate) fn remove_tree(parent: RawFd, top: RawFd, name: &CStr) {
    let mut names = Names { next: 0 };
    // A pass that removes nothing would be repeated for ever.
    while empty(top, &mut names) {}
    let _ = sys::unlinkat(parent, name, libc::AT_REMOVEDIR);
}

/// One pass over the top. Whether another one is worth while.
fn empty(top: RawFd, names: &mut Names) -> bool {
    let Ok(reading) = sys::openat(top, c".", OPEN, 0) else {
        return false;
    };
    let mut removed = false;
    for_each_entry(reading, |name| {
        removed |= remove_entry(top, name, |name| flatten(top, name, names));
    });
    sys::close(reading);
    removed
}

/// Removes a file, or a directory once `flatten` has emptied it.
fn remove_entry(dir: RawFd, name: &CStr, flatten: impl FnOnce(&CStr)) -> bool {
    if sys::unlinkat(dir, name, 0).is_ok() || remove_directory(dir, name) {
        return true;
    }
    flatten(name);
    remove_directory(dir, name)
}

fn remove_directory(dir: RawFd, name: &CStr) -> bool {
    sys::unlinkat(dir, name, libc::AT_REMOVEDIR).is_ok()
}

/// Empties the directory `name` of `top`; directories in it that are not empty move to `top`.
fn flatten(top: RawFd, name: &CStr, names: &mut Names) {
    make_accessible(top, name);
    let Ok(dir) = sys::openat(top, name, OPEN, 0) else {
        return;
    };
    let mut moved = true;
    while moved {
        moved = false;
        for_each_entry(dir, |name| {
            moved |= remove_entry(dir, name, |name| {
                // Moving a directory changes its "..", for which it must be writable.
                make_accessible(dir, name);
                names.take(|fresh| rename(dir, name, top, fresh));
            });
        });
        if rewind(dir).is_err() {
            break;
        }
    }
    sys::close(dir);
}

/// Gives the owner all rights on the directory `name`. By its descriptor: should somebody be left
/// who puts a link in its place, what that points to keeps its mode.
fn make_accessible(dir: RawFd, name: &CStr) {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let Ok(opened) = sys::openat(dir, name, flags, 0) else {
        return;
    };
    // `fchmod` refuses such a descriptor, and `fchmodat2` came with Linux 6.6.
    let mut path = [0; 25];
    let mut digits = [0; 10];
    let number = decimal(opened.unsigned_abs(), &mut digits);
    let text = b"/proc/self/fd/".iter().chain(number);
    for (slot, byte) in path.iter_mut().zip(text) {
        *slot = *byte;
    }
    if let Ok(path) = CStr::from_bytes_until_nul(&path) {
        let _ = sys::fchmodat(opened, path, 0o700);
    }
    sys::close(opened);
}

/// Fresh names.
struct Names {
    next: u64,
}

impl Names {
    /// Offers names until one is free.
    fn take(&mut self, mut offer: impl FnMut(&CStr) -> Sys<()>) {
        for _ in 0..ATTEMPTS {
            let mut name = *b".ringfence-0000000000000000\0";
            for (index, slot) in name.iter_mut().skip(11).take(16).enumerate() {
                let digit = u8::try_from(self.next >> (index * 4) & 0xf).unwrap_or(0);
                *slot = b'a'.saturating_add(digit);
            }
            self.next = self.next.wrapping_add(1);
            let Ok(name) = CStr::from_bytes_with_nul(&name) else {
                return;
            };
            if offer(name) != Err(Errno(libc::EEXIST)) {
                return;
            }
        }
    }
}

fn rename(from: RawFd, name: &CStr, to: RawFd, fresh: &CStr) -> Sys<()> {
    let args = [
        signed(from),
        name.as_ptr() as usize,
        signed(to),
        fresh.as_ptr() as usize,
        libc::RENAME_NOREPLACE as usize,
    ];
    // SAFETY: both names end with NUL and outlive the call.
    unsafe { sys::call(libc::SYS_renameat2, args) }.map(drop)
}

fn rewind(dir: RawFd) -> Sys<()> {
    // SAFETY: takes no pointers.
    unsafe { sys::call(libc::SYS_lseek, [signed(dir), 0, signed(libc::SEEK_SET)]) }.map(drop)
}

/// Bytes before the name in `struct linux_dirent64`.
const NAME_OFFSET: usize = 19;

/// Calls `visit` with the name of each entry but "." and "..", as far as the kernel lists them
/// while entries vanish.
pub(super) fn for_each_entry(dir: RawFd, mut visit: impl FnMut(&CStr)) {
    let mut buffer = [0_u8; 8192];
    loop {
        let args = [signed(dir), buffer.as_mut_ptr() as usize, buffer.len()];
        // SAFETY: the kernel writes at most `len` bytes to the buffer.
        let Ok(filled) = (unsafe { sys::call(libc::SYS_getdents64, args) }) else {
            return;
        };
        let mut rest = buffer.get(..filled).unwrap_or_default();
        if rest.is_empty() {
            return;
        }
        while let Some(&[low, high]) = rest.get(16..18) {
            let len = usize::from(u16::from_ne_bytes([low, high]));
            let Some((entry, next)) = rest.split_at_checked(len.max(NAME_OFFSET)) else {
                return;
            };
            rest = next;
            let name = entry.get(NAME_OFFSET..).unwrap_or_default();
            if let Ok(name) = CStr::from_bytes_until_nul(name)
                && !matches!(name.to_bytes(), b"" | b"." | b"..")
            {
                visit(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::fs::{self, File};
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn what_a_link_points_to_keeps_its_mode() {
        let base = tempfile::tempdir().unwrap();
        let mode = |name: &str| {
            let path = base.path().join(name);
            fs::metadata(path).unwrap().permissions().mode() & 0o777
        };
        for name in ["outside", "closed"] {
            let path = base.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap();
        }
        symlink(base.path().join("outside"), base.path().join("link")).unwrap();
        let dir = File::open(base.path()).unwrap();
        make_accessible(dir.as_raw_fd(), c"link");
        make_accessible(dir.as_raw_fd(), c"closed");
        assert_eq!((mode("outside"), mode("closed")), (0, 0o700));
    }

    #[test]
    fn wide_deep_and_closed_trees_go_and_links_are_not_followed() {
        let base = tempfile::tempdir().unwrap();
        let outside = base.path().join("outside");
        fs::write(&outside, "stays").unwrap();
        let top = base.path().join("top");
        fs::create_dir(&top).unwrap();
        symlink(base.path(), top.join("up")).unwrap();
        for index in 0..300 {
            fs::write(top.join(format!("file{index}")), "x").unwrap();
        }
        // Deeper than any path may be long: made one step at a time.
        let mut at = File::open(&top).unwrap();
        for depth in 0..3000 {
            sys::mkdirat(at.as_raw_fd(), c"a-name-of-some-length", 0o700).unwrap();
            sys::mkdirat(at.as_raw_fd(), c".ringfence-aaaaaaaaaaaaaaaa", 0o700).unwrap();
            let fd = sys::openat(at.as_raw_fd(), c"a-name-of-some-length", OPEN, 0).unwrap();
            at = File::open(format!("/proc/self/fd/{fd}")).unwrap();
            sys::close(fd);
            sys::symlinkat(c"/", at.as_raw_fd(), c"root").unwrap();
            if depth == 7 {
                let closed = CString::new("closed").unwrap();
                sys::mkdirat(at.as_raw_fd(), &closed, 0o700).unwrap();
                sys::mkdirat(at.as_raw_fd(), c"closed/inner", 0o700).unwrap();
                sys::fchmodat(at.as_raw_fd(), &closed, 0).unwrap();
            }
        }
        drop(at);
        let parent = File::open(base.path()).unwrap();
        let opened = File::open(&top).unwrap();
        opened
            .set_permissions(fs::Permissions::from_mode(0o755))
            .unwrap();
        let name = CString::new(top.file_name().unwrap().as_bytes()).unwrap();
        remove_tree(parent.as_raw_fd(), opened.as_raw_fd(), &name);
        assert!(!top.exists());
        assert_eq!(fs::read_to_string(outside).unwrap(), "stays");
    }
}
