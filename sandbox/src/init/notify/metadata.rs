//! Changes of modes, owners, times and extended attributes.

#![expect(unsafe_code, reason = "system calls that take structures")]

use super::resolve::{self, Subject};
use super::target::{ProcPath, Target};
use super::{Fd, OUTSIDE, low};
use crate::plan::Mediation;
use crate::sys::{self, Errno, Sys, signed};
use std::ffi::CStr;

const FCHMODAT2: libc::c_long = 452;
const SETXATTRAT: libc::c_long = 463;
const REMOVEXATTRAT: libc::c_long = 466;

/// The longest name of an attribute, its NUL included.
const NAME: usize = 256;
/// The largest value; file systems with larger ones are rare.
const VALUE: usize = 4096;

const NO_FOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();
const EMPTY_PATH: u32 = libc::AT_EMPTY_PATH.cast_unsigned();

/// What is to be changed. Numbers that end in `at` are addresses in the program's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Mode(u32),
    Owner {
        uid: u32,
        gid: u32,
    },
    /// Two times at an address, in this form; 0 means now.
    Times(TimeForm, u64),
    SetAttribute {
        name_at: u64,
        value_at: u64,
        size: u64,
        flags: u32,
    },
    /// With a structure that holds the rest.
    SetAttributeBy {
        name_at: u64,
        rest_at: u64,
        rest_size: u64,
    },
    RemoveAttribute {
        name_at: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TimeForm {
    Nanoseconds,
    Microseconds,
    Seconds,
}

/// Whether a call is one of these.
pub(super) fn is_meant(number: libc::c_long) -> bool {
    decode(number, &[0; 6]) != Err(OUTSIDE)
}

/// Performs a call, if what it changes lies beneath an allowed root.
pub(super) fn perform(
    target: &Target,
    mediation: &Mediation,
    number: libc::c_long,
    args: &[u64; 6],
) -> Sys<()> {
    let (subject, change) = decode(number, args)?;
    let Subject::Path { follow, .. } = subject else {
        return apply(target, change, || resolve::open(target, mediation, subject));
    };
    if matches!(change, Change::Mode(_)) && !follow {
        // A link has no mode.
        let object = resolve::open(target, mediation, subject)?;
        return match is_link(&object)? {
            true => Err(Errno(libc::EOPNOTSUPP)),
            false => apply(target, change, || Ok(object)),
        };
    }
    apply(target, change, || resolve::open(target, mediation, subject))
}

fn is_link(object: &Fd) -> Sys<bool> {
    // SAFETY: all-zero bytes are a valid `stat`.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    let args = [signed(object.0), &raw mut stat as usize];
    // SAFETY: the kernel writes one `stat`, which outlives the call.
    unsafe { sys::call(libc::SYS_fstat, args) }?;
    Ok(stat.st_mode & libc::S_IFMT == libc::S_IFLNK)
}

/// What a call means. Pure, so that every call can be tried in a test.
fn decode(number: libc::c_long, args: &[u64; 6]) -> Sys<(Subject, Change)> {
    let [a, b, c, d, e, f] = *args;
    let descriptor = Subject::Descriptor(low(a).cast_signed());
    let mode = |bits: u64| Change::Mode(low(bits) & 0o7777);
    let owner = |uid, gid| Change::Owner {
        uid: low(uid),
        gid: low(gid),
    };
    let set = |name_at, value_at, size, flags| Change::SetAttribute {
        name_at,
        value_at,
        size,
        flags: low(flags),
    };
    Ok(match number {
        libc::SYS_fchmod => (descriptor, mode(b)),
        libc::SYS_fchmodat => (at(a, b, 0)?, mode(c)),
        FCHMODAT2 => (at(a, b, low(d))?, mode(c)),
        libc::SYS_fchown => (descriptor, owner(b, c)),
        libc::SYS_fchownat => (at(a, b, low(e))?, owner(c, d)),
        libc::SYS_utimensat => (
            if b == 0 {
                descriptor
            } else {
                at(a, b, low(d))?
            },
            Change::Times(TimeForm::Nanoseconds, c),
        ),
        libc::SYS_setxattr => (here(a, true), set(b, c, d, e)),
        libc::SYS_lsetxattr => (here(a, false), set(b, c, d, e)),
        libc::SYS_fsetxattr => (descriptor, set(b, c, d, e)),
        SETXATTRAT => {
            let (name_at, rest_at, rest_size) = (d, e, f);
            let change = Change::SetAttributeBy {
                name_at,
                rest_at,
                rest_size,
            };
            (at(a, b, low(c))?, change)
        }
        libc::SYS_removexattr => (here(a, true), Change::RemoveAttribute { name_at: b }),
        libc::SYS_lremovexattr => (here(a, false), Change::RemoveAttribute { name_at: b }),
        libc::SYS_fremovexattr => (descriptor, Change::RemoveAttribute { name_at: b }),
        REMOVEXATTRAT => (at(a, b, low(c))?, Change::RemoveAttribute { name_at: d }),
        number => return decode_older(number, args),
    })
}

#[cfg(target_arch = "x86_64")]
fn decode_older(number: libc::c_long, args: &[u64; 6]) -> Sys<(Subject, Change)> {
    let [a, b, c, ..] = *args;
    let owner = Change::Owner {
        uid: low(b),
        gid: low(c),
    };
    Ok(match number {
        libc::SYS_chmod => (here(a, true), Change::Mode(low(b) & 0o7777)),
        libc::SYS_chown => (here(a, true), owner),
        libc::SYS_lchown => (here(a, false), owner),
        libc::SYS_utime => (here(a, true), Change::Times(TimeForm::Seconds, b)),
        libc::SYS_utimes => (here(a, true), Change::Times(TimeForm::Microseconds, b)),
        libc::SYS_futimesat => (
            if b == 0 {
                Subject::Descriptor(low(a).cast_signed())
            } else {
                at(a, b, 0)?
            },
            Change::Times(TimeForm::Microseconds, c),
        ),
        _ => return Err(OUTSIDE),
    })
}

#[cfg(target_arch = "aarch64")]
fn decode_older(_number: libc::c_long, _args: &[u64; 6]) -> Sys<(Subject, Change)> {
    Err(OUTSIDE)
}

/// A path seen from the working directory.
const fn here(address: u64, follow: bool) -> Subject {
    Subject::Path {
        directory: libc::AT_FDCWD,
        address,
        follow,
        may_be_empty: false,
    }
}

/// A path seen from a descriptor.
fn at(directory: u64, address: u64, flags: u32) -> Sys<Subject> {
    if flags & !(NO_FOLLOW | EMPTY_PATH) != 0 {
        return Err(Errno(libc::EINVAL));
    }
    Ok(Subject::Path {
        directory: low(directory).cast_signed(),
        address,
        follow: flags & NO_FOLLOW == 0,
        may_be_empty: flags & EMPTY_PATH != 0,
    })
}

/// Reads what the change needs, then opens its object, which also checks that what was read was the
/// program's, then changes it.
fn apply(target: &Target, change: Change, object: impl FnOnce() -> Sys<Fd>) -> Sys<()> {
    match change {
        Change::Mode(mode) => on(object, |path| {
            let args = [
                signed(libc::AT_FDCWD),
                path.as_ptr() as usize,
                mode as usize,
            ];
            // SAFETY: the path ends with NUL and outlives the call.
            unsafe { sys::call(libc::SYS_fchmodat, args) }
        }),
        Change::Owner { uid, gid } => on(object, |path| {
            let here = signed(libc::AT_FDCWD);
            let args = [here, path.as_ptr() as usize, uid as usize, gid as usize, 0];
            // SAFETY: the path ends with NUL and outlives the call.
            unsafe { sys::call(libc::SYS_fchownat, args) }
        }),
        Change::Times(form, address) => {
            let times = times(target, form, address)?;
            let times = times.as_ref().map_or(0, |times| times.as_ptr() as usize);
            on(object, |path| {
                let args = [signed(libc::AT_FDCWD), path.as_ptr() as usize, times, 0];
                // SAFETY: the path ends with NUL; the kernel reads two times, if any; all outlive
                // the call.
                unsafe { sys::call(libc::SYS_utimensat, args) }
            })
        }
        Change::SetAttribute {
            name_at,
            value_at,
            size,
            flags,
        } => set_attribute(target, object, name_at, (value_at, size), flags),
        Change::SetAttributeBy {
            name_at,
            rest_at,
            rest_size,
        } => {
            // `struct xattr_args`: address, size, flags. A longer one would say more.
            if rest_size != 16 {
                return Err(Errno(libc::E2BIG));
            }
            let mut rest = [0_u8; 16];
            target.bytes(rest_at, &mut rest)?;
            let [value_at, sizes] = words(rest);
            let value = (value_at, u64::from(low(sizes)));
            set_attribute(target, object, name_at, value, low(sizes >> 32))
        }
        Change::RemoveAttribute { name_at } => {
            let mut buffer = [0; NAME];
            let name = attribute(target, name_at, &mut buffer)?;
            on(object, |path| {
                let args = [path.as_ptr() as usize, name.as_ptr() as usize];
                // SAFETY: both strings end with NUL and outlive the call.
                unsafe { sys::call(libc::SYS_removexattr, args) }
            })
        }
    }
}

/// Does something to an object by the path of its descriptor, which stands for it alone, also where
/// it is a link.
fn on(object: impl FnOnce() -> Sys<Fd>, act: impl FnOnce(&CStr) -> Sys<usize>) -> Sys<()> {
    let object = object()?;
    let path = ProcPath::new(b"/proc/self/fd/").number(object.0.cast_unsigned());
    act(path.as_c_str()).map(drop)
}

fn words(bytes: [u8; 16]) -> [u64; 2] {
    let both = u128::from_le_bytes(bytes);
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    let halves = [both as u64, (both >> 64) as u64];
    halves
}

/// Two times as `utimensat` takes them, seconds and nanoseconds each.
fn times(target: &Target, form: TimeForm, address: u64) -> Sys<Option<[[u64; 2]; 2]>> {
    if address == 0 {
        return Ok(None);
    }
    let mut bytes = [[0_u8; 16]; 2];
    if form == TimeForm::Seconds {
        let [both, _] = &mut bytes;
        target.bytes(address, both)?;
        let [accessed, modified] = words(*both);
        return Ok(Some([[accessed, 0], [modified, 0]]));
    }
    let flat = bytes.as_flattened_mut();
    target.bytes(address, flat)?;
    let mut times = bytes.map(words);
    if form == TimeForm::Microseconds {
        for [_, fraction] in &mut times {
            let micros = Some(*fraction).filter(|micros| *micros < 1_000_000);
            *fraction = micros.ok_or(Errno(libc::EINVAL))?.saturating_mul(1000);
        }
    }
    Ok(Some(times))
}

/// The name of an attribute. Those beyond a user's own take capabilities, and are refused to every
/// program in a sandbox.
fn attribute<'b>(target: &Target, address: u64, buffer: &'b mut [u8; NAME]) -> Sys<&'b CStr> {
    let name = match target.string(address, buffer) {
        Err(Errno(libc::ENAMETOOLONG)) => return Err(Errno(libc::ERANGE)),
        name => name?,
    };
    let own = [b"user.".as_slice(), b"system.posix_acl_"];
    match own.iter().any(|start| name.to_bytes().starts_with(start)) {
        true => Ok(name),
        false => Err(OUTSIDE),
    }
}

fn set_attribute(
    target: &Target,
    object: impl FnOnce() -> Sys<Fd>,
    name_at: u64,
    (value_at, size): (u64, u64),
    flags: u32,
) -> Sys<()> {
    let mut buffer = [0; NAME];
    let name = attribute(target, name_at, &mut buffer)?;
    let mut value = [0_u8; VALUE];
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let value = value.get_mut(..size).ok_or(Errno(libc::ENOSPC))?;
    if !value.is_empty() {
        target.bytes(value_at, value)?;
    }
    on(object, |path| {
        let args = [
            path.as_ptr() as usize,
            name.as_ptr() as usize,
            value.as_ptr() as usize,
            value.len(),
            flags as usize,
        ];
        // SAFETY: both strings end with NUL; the kernel reads the value; all outlive the call.
        unsafe { sys::call(libc::SYS_setxattr, args) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::mediate;

    #[test]
    fn every_call_that_is_held_is_understood() {
        let lists = [mediate::METADATA, mediate::METADATA_OF_THIS_ARCHITECTURE];
        for call in lists
            .iter()
            .copied()
            .flatten()
            .flat_map(|group| group.calls)
        {
            let decoded = decode(*call, &[1, 2, 0, 0, 0, 0]);
            assert!(decoded.is_ok(), "system call {call}");
        }
        assert!(decode(libc::SYS_connect, &[0; 6]).is_err());
    }

    #[test]
    fn arguments_have_their_places() {
        let path = |directory, follow, may_be_empty| Subject::Path {
            directory,
            address: 2,
            follow,
            may_be_empty,
        };
        let flags = u64::from(NO_FOLLOW | EMPTY_PATH);
        let decoded = decode(libc::SYS_fchownat, &[u64::MAX - 99, 2, 3, 4, flags, 6]);
        let owner = Change::Owner { uid: 3, gid: 4 };
        assert_eq!(decoded, Ok((path(libc::AT_FDCWD, false, true), owner)));
        let decoded = decode(FCHMODAT2, &[7, 2, 0o170_755, 0, 9, 9]);
        assert_eq!(decoded, Ok((path(7, true, false), Change::Mode(0o755))));
        let decoded = decode(libc::SYS_utimensat, &[7, 0, 3, 0x8000, 0, 0]);
        let times = Change::Times(TimeForm::Nanoseconds, 3);
        assert_eq!(decoded, Ok((Subject::Descriptor(7), times)));
        let unknown = decode(FCHMODAT2, &[7, 2, 0, 0x8000, 0, 0]);
        assert_eq!(unknown, Err(Errno(libc::EINVAL)));
    }
}
