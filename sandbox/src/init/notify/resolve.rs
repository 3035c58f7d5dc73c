//! From what the program names to a descriptor of what it may change.
//!
//! A path is looked up from the descriptor of an allowed root, beneath which the kernel keeps the
//! whole walk (`RESOLVE_BENEATH`), whatever is swapped meanwhile; outside, nothing is looked up at
//! all. What a descriptor of the program stands for is opened anew and must have its name beneath a
//! root: nothing from outside can be moved there, for Landlock refuses both the move and the link.

#![expect(unsafe_code, reason = "system calls that take structures")]

use super::target::{PATH, ProcPath, Target, read_link, read_opened_link};
use super::{Fd, OUTSIDE};
use crate::plan::Mediation;
use crate::sys::{self, Errno, Sys, signed};
use std::ffi::CStr;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

/// Links with an absolute path that are followed from one root to another.
const ABSOLUTE_LINKS: u32 = 8;
/// Repeats of a walk during which somebody else moved directories.
const WALKS: u32 = 32;

/// What a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// What this descriptor stands for.
    Descriptor(i32),
    /// What the path at an address means, seen from a descriptor.
    Path {
        directory: i32,
        address: u64,
        /// A link at its end is followed.
        follow: bool,
        /// An empty path means the descriptor itself.
        may_be_empty: bool,
    },
}

/// Opens what a call is about, `O_PATH`, if it lies beneath an allowed root.
pub(super) fn open(target: &Target, mediation: &Mediation, subject: Subject) -> Sys<Fd> {
    match subject {
        Subject::Descriptor(fd) => descriptor(target, mediation, fd),
        Subject::Path {
            directory,
            address,
            follow,
            may_be_empty,
        } => {
            let mut buffer = [0; PATH];
            let path = target.string(address, &mut buffer)?.to_bytes();
            if path.is_empty() && may_be_empty && directory != libc::AT_FDCWD {
                return descriptor(target, mediation, directory);
            }
            let path = match path {
                b"" if may_be_empty => b".",
                b"" => return Err(Errno(libc::ENOENT)),
                path => path,
            };
            named(target, mediation, directory, path, follow)
        }
    }
}

fn descriptor(target: &Target, mediation: &Mediation, fd: i32) -> Sys<Fd> {
    let object = target.object(fd)?;
    target.check()?;
    let name = ProcPath::new(b"/proc/self/fd/").number(object.0.cast_unsigned());
    let mut buffer = [0; PATH];
    let place = read_link(name.as_c_str(), &mut buffer)?;
    if is_inside(mediation, place) {
        Ok(object)
    } else {
        Err(OUTSIDE)
    }
}

/// Whether a path, as the kernel gives it, lies beneath an allowed root.
pub(super) fn is_inside(mediation: &Mediation, place: &[u8]) -> bool {
    let mut roots = mediation.roots.iter();
    roots.any(|root| beneath(place, root.path.to_bytes()).is_some())
}

/// Opens what a path means.
pub(super) fn named(
    target: &Target,
    mediation: &Mediation,
    directory: i32,
    path: &[u8],
    follow: bool,
) -> Sys<Fd> {
    if let Some(fd) = own_descriptor(path) {
        return descriptor(target, mediation, fd);
    }
    let mut whole = Whole::new();
    if path.first() != Some(&b'/') {
        let mut buffer = [0; PATH];
        let base = target.place(directory, &mut buffer)?;
        if base.first() != Some(&b'/') {
            return Err(Errno(libc::ENOTDIR));
        }
        whole.push(base)?;
        whole.push(b"/")?;
    }
    whole.push(path)?;
    target.check()?;
    for _ in 0..ABSOLUTE_LINKS {
        let (root, rest) = root_of(mediation, whole.path()).ok_or(OUTSIDE)?;
        let Some(rest) = rest else {
            return duplicate(root);
        };
        match walk(root, rest, follow) {
            Err(Errno(libc::EXDEV)) if follow => {
                // A link whose path is absolute may lead to a root all the same.
                let link = walk(root, rest, false).map_err(outside)?;
                let mut buffer = [0; PATH];
                let leads = read_opened_link(&link, &mut buffer).map_err(|_errno| OUTSIDE)?;
                if leads.first() != Some(&b'/') {
                    return Err(OUTSIDE);
                }
                whole = Whole::new();
                whole.push(leads)?;
            }
            opened => return opened.map_err(outside),
        }
    }
    Err(Errno(libc::ELOOP))
}

fn outside(errno: Errno) -> Errno {
    match errno {
        Errno(libc::EXDEV | libc::EAGAIN) => OUTSIDE,
        other => other,
    }
}

/// A name in a directory beneath an allowed root.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) directory: Fd,
    name: [u8; NAME],
}

/// The longest name, and its NUL.
const NAME: usize = 256;

impl Entry {
    pub(super) fn name(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.name).unwrap_or_default()
    }
}

/// Opens the directory that a path's last name is in. The name itself is not looked at.
pub(super) fn entry(
    target: &Target,
    mediation: &Mediation,
    directory: i32,
    path: &[u8],
) -> Sys<Entry> {
    let mut end = path.len();
    while path.get(..end).is_some_and(|path| path.ends_with(b"/")) {
        end = end.saturating_sub(1);
    }
    let path = path.get(..end).unwrap_or_default();
    let start = path.iter().rposition(|byte| *byte == b'/');
    let start = start.map_or(0, |slash| slash.saturating_add(1));
    let (parent, name) = path.split_at_checked(start).unwrap_or_default();
    if matches!(name, b"" | b"." | b"..") {
        return Err(OUTSIDE);
    }
    let mut bytes = [0; NAME];
    let room = bytes.get_mut(..name.len()).filter(|room| room.len() < NAME);
    room.ok_or(Errno(libc::ENAMETOOLONG))?.copy_from_slice(name);
    let parent = if parent.is_empty() { b"." } else { parent };
    Ok(Entry {
        directory: named(target, mediation, directory, parent, true)?,
        name: bytes,
    })
}

/// A path, and the one that it is relative to before it.
struct Whole {
    bytes: [u8; 2 * PATH + 1],
    len: usize,
}

impl Whole {
    const fn new() -> Self {
        Self {
            bytes: [0; 2 * PATH + 1],
            len: 0,
        }
    }

    /// Adds a part. The last byte stays NUL.
    fn push(&mut self, part: &[u8]) -> Sys<()> {
        let end = self.len.saturating_add(part.len());
        let slot = self.bytes.get_mut(self.len..end);
        let slot = slot.filter(|_| end < 2 * PATH + 1);
        slot.ok_or(Errno(libc::ENAMETOOLONG))?.copy_from_slice(part);
        self.len = end;
        Ok(())
    }

    fn path(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

/// The root that a path begins with, opened, and what follows it, if anything.
fn root_of<'p>(mediation: &Mediation, path: &'p CStr) -> Option<(RawFd, Option<&'p CStr>)> {
    mediation.roots.iter().find_map(|root| {
        let names = std::iter::once(&root.path).chain(root.alias.as_ref());
        let rest = names
            .filter_map(|name| beneath(path.to_bytes(), name.to_bytes()))
            .next()?;
        let start = path.to_bytes().len().saturating_sub(rest.len());
        let rest = path.to_bytes_with_nul().get(start..)?;
        let rest = CStr::from_bytes_with_nul(rest).ok()?;
        Some((
            root.opened.load(Ordering::Relaxed),
            (!rest.is_empty()).then_some(rest),
        ))
    })
}

/// What follows a root in a path, compared name by name; `.` and repeated slashes count for nothing,
/// and `..` is no name.
fn beneath<'p>(path: &'p [u8], root: &[u8]) -> Option<&'p [u8]> {
    let mut rest = path.strip_prefix(b"/")?;
    for wanted in root
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
    {
        loop {
            rest = without_slashes(rest);
            let end = rest.iter().position(|byte| *byte == b'/');
            let (name, after) = rest.split_at_checked(end.unwrap_or(rest.len()))?;
            rest = after;
            if name == wanted {
                break;
            }
            if name != b"." {
                return None;
            }
        }
    }
    Some(without_slashes(rest))
}

fn without_slashes(mut path: &[u8]) -> &[u8] {
    while let Some(rest) = path.strip_prefix(b"/") {
        path = rest;
    }
    path
}

/// The descriptor that a path of `/proc` stands for; C libraries change modes through such paths.
/// Looked up here, the path would mean the supervisor.
pub(super) fn own_descriptor(path: &[u8]) -> Option<i32> {
    number(after_descriptors(path)?)
}

/// The same, and what follows it in a longer path.
pub(super) fn descriptor_path(path: &CStr) -> Option<(i32, Option<&CStr>)> {
    let bytes = path.to_bytes();
    let after = after_descriptors(bytes)?;
    let end = after.iter().position(|byte| *byte == b'/');
    let (digits, rest) = after.split_at_checked(end.unwrap_or(after.len()))?;
    let rest = without_slashes(rest);
    let start = bytes.len().saturating_sub(rest.len());
    let rest = path.to_bytes_with_nul().get(start..)?;
    let rest = CStr::from_bytes_with_nul(rest).ok()?;
    Some((number(digits)?, (!rest.is_empty()).then_some(rest)))
}

fn after_descriptors(path: &[u8]) -> Option<&[u8]> {
    let starts: [&[u8]; 3] = [b"/proc/self/fd/", b"/proc/thread-self/fd/", b"/dev/fd/"];
    starts.iter().find_map(|start| path.strip_prefix(*start))
}

fn number(digits: &[u8]) -> Option<i32> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain.then_some(())?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `struct open_how`.
#[repr(C)]
struct How {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Opens a path beneath a root, `O_PATH`.
fn walk(root: RawFd, path: &CStr, follow: bool) -> Sys<Fd> {
    let link = if follow { 0 } else { libc::O_NOFOLLOW };
    let flags = libc::O_PATH | libc::O_CLOEXEC | link;
    let how = How {
        flags: flags.cast_unsigned().into(),
        mode: 0,
        resolve: libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS,
    };
    let args = [
        signed(root),
        path.as_ptr() as usize,
        &raw const how as usize,
        size_of::<How>(),
    ];
    let mut opened = Err(Errno(libc::EAGAIN));
    for _ in 0..WALKS {
        // SAFETY: the path ends with NUL; the kernel reads one `How`; both outlive the call.
        opened = sys::retry(|| unsafe { sys::call(libc::SYS_openat2, args) });
        if opened != Err(Errno(libc::EAGAIN)) {
            break;
        }
    }
    opened.and_then(new_descriptor)
}

fn duplicate(fd: RawFd) -> Sys<Fd> {
    let args = [signed(fd), signed(libc::F_DUPFD_CLOEXEC), 0];
    // SAFETY: takes no pointers.
    unsafe { sys::call(libc::SYS_fcntl, args) }.and_then(new_descriptor)
}

fn new_descriptor(number: usize) -> Sys<Fd> {
    RawFd::try_from(number)
        .map(Fd)
        .map_err(|_range| Errno(libc::EBADF))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_count() {
        let rest = |path: &'static [u8]| beneath(path, b"/a/b");
        assert_eq!(rest(b"/a/b"), Some(b"".as_slice()));
        assert_eq!(rest(b"/a/b/"), Some(b"".as_slice()));
        assert_eq!(rest(b"//a/./b//c/../d"), Some(b"c/../d".as_slice()));
        for outside in [
            b"/a/bc".as_slice(),
            b"/a",
            b"/",
            b"",
            b"a/b/c",
            b"/a/x/../b/c",
            b"/A/b",
            b"pipe:[1]",
        ] {
            assert_eq!(rest(outside), None, "{outside:?}");
        }
        assert_eq!(beneath(b"/anything", b"/"), Some(b"anything".as_slice()));
    }

    #[test]
    fn descriptors_are_named_plainly() {
        assert_eq!(own_descriptor(b"/proc/self/fd/7"), Some(7));
        assert_eq!(own_descriptor(b"/dev/fd/0"), Some(0));
        for other in [
            b"/proc/self/fd/".as_slice(),
            b"/proc/self/fd/7/x",
            b"/proc/self/fd/-1",
            b"/proc/self/fd/99999999999",
            b"/proc/1/fd/7",
        ] {
            assert_eq!(own_descriptor(other), None, "{other:?}");
        }
        assert_eq!(descriptor_path(c"/dev/fd/3"), Some((3, None)));
        let beneath = descriptor_path(c"/dev/fd/3//a/b");
        assert_eq!(beneath, Some((3, Some(c"a/b"))));
        assert_eq!(descriptor_path(c"/dev/fd/x/a"), None);
    }
}
