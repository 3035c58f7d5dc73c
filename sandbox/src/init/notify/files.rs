//! Opening for writing, cutting off, removing and renaming, for programs that have to ask.
//!
//! Landlock would have a say in these; the supervisor, which is not confined by it, keeps to the
//! same places: what the program may write to, and the devices that hold nothing.

#![expect(unsafe_code, reason = "system calls that take structures")]

use super::act::{Act, Text, name_of};
use super::loss::{Removal, Renaming};
use super::resolve::{self, Entry, Subject};
use super::target::{PATH, ProcPath, Target, read_link};
use super::{Fd, OUTSIDE, Performed, listener, low};
use crate::plan::Mediation;
use crate::sys::{self, Errno, Sys, signed};
use std::ffi::CStr;
use std::os::fd::RawFd;

/// Landlock's refusal.
const REFUSED: Errno = Errno(libc::EACCES);

/// The flags of `open` that mean something for a file that is not opened by its path alone.
const KNOWN: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_CLOEXEC
    | libc::O_CREAT
    | libc::O_DIRECT
    | libc::O_EXCL
    | libc::O_NOATIME
    | libc::O_NOCTTY
    | libc::O_NOFOLLOW
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_TMPFILE
    | libc::O_TRUNC;

/// A prepared `open`.
#[derive(Debug)]
pub(super) struct Open {
    place: Place,
    flags: i32,
    mode: u32,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is no allocator here")]
enum Place {
    /// One of the devices that hold nothing.
    Device(&'static str),
    /// A pipe that the program has open already.
    Stream(Fd),
    /// Something that is there.
    There { object: Fd, is_fifo: bool },
    /// Something that is not there yet.
    New(Entry),
}

/// Prepares a call.
pub(super) fn prepare(
    target: &Target,
    mediation: &Mediation,
    number: libc::c_long,
    args: &[u64; 6],
) -> Sys<Act> {
    let [a, b, c, d, e, _] = *args;
    #[cfg(target_arch = "x86_64")]
    let here = libc::AT_FDCWD;
    let directory = |number: u64| low(number).cast_signed();
    let entry = |directory, address| {
        let mut buffer = [0; PATH];
        let path = target.string(address, &mut buffer)?.to_bytes();
        resolve::entry(target, mediation, directory, path).map_err(refused)
    };
    let supervised = mediation.supervision.as_ref();
    let remove = |entry, flags| Removal::prepare(entry, flags).map(Act::Remove);
    let rename = |from, to, flags| Renaming::prepare(from, to, flags, supervised).map(Act::Rename);
    match number {
        libc::SYS_openat => {
            let how = (low(c).cast_signed(), low(d));
            open(target, mediation, directory(a), b, how)
        }
        libc::SYS_truncate => truncate(target, mediation, a, b),
        libc::SYS_unlinkat => remove(entry(directory(a), b)?, low(c).cast_signed()),
        libc::SYS_renameat => rename(entry(directory(a), b)?, entry(directory(c), d)?, 0),
        libc::SYS_renameat2 => {
            let (from, to) = (entry(directory(a), b)?, entry(directory(c), d)?);
            rename(from, to, low(e))
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => open(target, mediation, here, a, (low(b).cast_signed(), low(c))),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat => {
            let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
            open(target, mediation, here, a, (flags, low(b)))
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink => remove(entry(here, a)?, 0),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rmdir => remove(entry(here, a)?, libc::AT_REMOVEDIR),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => rename(entry(here, a)?, entry(here, b)?, 0),
        _ => Err(OUTSIDE),
    }
}

fn truncate(target: &Target, mediation: &Mediation, address: u64, len: u64) -> Sys<Act> {
    let supervised = mediation.supervision.as_ref();
    let limit = supervised.and_then(|supervised| supervised.file_size);
    if limit.is_some_and(|limit| len > limit) {
        return Err(Errno(libc::EFBIG));
    }
    let subject = Subject::Path {
        directory: libc::AT_FDCWD,
        address,
        follow: true,
        may_be_empty: false,
    };
    let object = resolve::open(target, mediation, subject).map_err(refused)?;
    Ok(Act::Truncate { object, len })
}

fn refused(errno: Errno) -> Errno {
    if errno == OUTSIDE { REFUSED } else { errno }
}

fn open(
    target: &Target,
    mediation: &Mediation,
    directory: i32,
    address: u64,
    (flags, mode): (i32, u32),
) -> Sys<Act> {
    let has = |flag: i32| flags & flag == flag;
    if has(libc::O_PATH) {
        return Err(Errno(libc::EINVAL));
    }
    let mut buffer = [0; PATH];
    let path = target.string(address, &mut buffer)?.to_bytes();
    if path.is_empty() {
        return Err(Errno(libc::ENOENT));
    }
    let mode = mode & 0o7777 & !target.umask()?;
    let place = match (device(path), stream(target, path)?) {
        (Some(device), _) => Place::Device(device),
        (None, Some(pipe)) => Place::Stream(pipe),
        (None, None) => {
            let exclusive = has(libc::O_CREAT | libc::O_EXCL);
            let follow = !exclusive && !has(libc::O_NOFOLLOW);
            match resolve::named(target, mediation, directory, path, follow) {
                Ok(_) if exclusive => return Err(Errno(libc::EEXIST)),
                Ok(object) => match kind(&object)? {
                    libc::S_IFLNK => return Err(Errno(libc::ELOOP)),
                    kind => Place::There {
                        object,
                        is_fifo: kind == libc::S_IFIFO,
                    },
                },
                Err(Errno(libc::ENOENT)) if has(libc::O_CREAT) => {
                    let entry = resolve::entry(target, mediation, directory, path);
                    Place::New(entry.map_err(refused)?)
                }
                Err(errno) => return Err(refused(errno)),
            }
        }
    };
    Ok(Act::Open(Open {
        place,
        flags: flags & KNOWN,
        mode,
    }))
}

/// One of the devices that hold nothing, by its plain name.
fn device(path: &[u8]) -> Option<&'static str> {
    let name = path.strip_prefix(b"/dev/")?;
    let devices = crate::view::DEVICES.iter().copied();
    devices.into_iter().find(|device| device.as_bytes() == name)
}

/// A pipe of the program's that a path stands for, so that it can be opened again.
fn stream(target: &Target, path: &[u8]) -> Sys<Option<Fd>> {
    let fd = match path {
        b"/dev/stdout" => Some(1),
        b"/dev/stderr" => Some(2),
        path => resolve::own_descriptor(path),
    };
    let Some(fd) = fd else {
        return Ok(None);
    };
    let object = target.object(fd)?;
    target.check()?;
    let mut buffer = [0; 64];
    // What does not fit is no pipe.
    let place = read_link(name_of(&object).as_c_str(), &mut buffer).unwrap_or_default();
    Ok(place.starts_with(b"pipe:[").then_some(object))
}

/// The kind of a file, of the bits of its mode.
pub(super) fn kind(object: &Fd) -> Sys<u32> {
    // SAFETY: all-zero bytes are a valid `stat`.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    let args = [signed(object.0), &raw mut stat as usize];
    // SAFETY: the kernel writes one `stat`, which outlives the call.
    unsafe { sys::call(libc::SYS_fstat, args) }?;
    Ok(stat.st_mode & libc::S_IFMT)
}

impl Open {
    pub(super) const fn is_asked(&self) -> bool {
        matches!(self.place, Place::There { .. } | Place::New(_))
    }

    pub(super) fn describe(&self, text: &mut Text) -> Sys<()> {
        match &self.place {
            Place::Device(name) => text.push(name.as_bytes()),
            Place::Stream(object) | Place::There { object, .. } => text.object(object),
            Place::New(entry) => text.entry(entry),
        }
    }

    /// Opens, and gives the descriptor to the program. Never waits: a FIFO without a reader and a
    /// file under a lease are tried again.
    pub(super) fn perform(&self, listener: RawFd, id: u64) -> Sys<Performed> {
        let may_wait = self.flags & libc::O_NONBLOCK == 0;
        let opened = match self.open() {
            Err(Errno(libc::EAGAIN)) if may_wait => return Ok(Performed::Later),
            Err(Errno(libc::ENXIO)) if may_wait && self.is_fifo() => {
                return Ok(Performed::Later);
            }
            opened => opened?,
        };
        if may_wait {
            let kept = self.flags & (libc::O_APPEND | libc::O_DIRECT | libc::O_NOATIME);
            let args = [signed(opened.0), signed(libc::F_SETFL), signed(kept)];
            // SAFETY: takes no pointers.
            unsafe { sys::call(libc::SYS_fcntl, args) }?;
        }
        listener::give(listener, id, &opened, self.flags & libc::O_CLOEXEC != 0)?;
        Ok(Performed::Answered)
    }

    const fn is_fifo(&self) -> bool {
        matches!(self.place, Place::There { is_fifo: true, .. })
    }

    fn open(&self) -> Sys<Fd> {
        let flags = self.flags | libc::O_NONBLOCK | libc::O_NOCTTY;
        let there = flags & !(libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW);
        let here = libc::AT_FDCWD;
        let path = |path: &ProcPath, flags| open_at(here, path.as_c_str(), flags, self.mode);
        match &self.place {
            Place::Device(name) => {
                let device = ProcPath::new(b"/dev/").text(name.as_bytes());
                path(&device, there & !libc::O_TRUNC)
            }
            Place::Stream(object) | Place::There { object, .. } => path(&name_of(object), there),
            Place::New(entry) => open_at(
                entry.directory.0,
                entry.name(),
                flags | libc::O_NOFOLLOW,
                self.mode,
            ),
        }
    }
}

fn open_at(directory: RawFd, path: &CStr, flags: i32, mode: u32) -> Sys<Fd> {
    sys::openat(directory, path, flags, mode).map(Fd)
}
