//! A terminal of the sandbox's own `devpts`, in place of the host's.
//!
//! Where the program has a private root its terminal has a name there, and the host has none for
//! it: its modes and owner, which are the program's, are nobody else's concern.

#![expect(unsafe_code, reason = "system calls that take structures")]

use crate::plan::Plan;
use crate::sys::{self, Errno, Sys, signed};
use std::os::fd::RawFd;

/// Puts one into the place of the program's streams, if there can be one, and returns the caller's
/// side of it.
pub(super) fn own(plan: &Plan) -> Sys<Option<RawFd>> {
    if !plan.terminal || plan.root.is_none() {
        return Ok(None);
    }
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    let Ok(terminal) = sys::openat(libc::AT_FDCWD, c"/dev/pts/ptmx", flags, 0) else {
        // The kernel gave the sandbox no file system for terminals.
        return Ok(None);
    };
    let unlocked = 0_i32;
    request(terminal, libc::TIOCSPTLCK, &raw const unlocked as usize)?;
    let programs = request(terminal, libc::TIOCGPTPEER, signed(flags))?;
    let programs = RawFd::try_from(programs).map_err(|_range| Errno(libc::EBADF))?;
    // SAFETY: all-zero bytes are a valid size.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    let size = &raw mut size as usize;
    request(plan.fds.stdin, libc::TIOCGWINSZ, size)?;
    request(terminal, libc::TIOCSWINSZ, size)?;
    for stream in [plan.fds.stdin, plan.fds.stdout, plan.fds.stderr] {
        sys::dup3(programs, stream, libc::O_CLOEXEC)?;
    }
    sys::close(programs);
    Ok(Some(terminal))
}

/// Makes standard input the terminal of this session, of which this process is the leader.
pub(super) fn control() -> Sys<()> {
    request(0, libc::TIOCSCTTY, 0).map(drop)
}

fn request(fd: RawFd, request: libc::Ioctl, argument: usize) -> Sys<usize> {
    let request = usize::try_from(request).map_err(|_range| Errno(libc::EINVAL))?;
    // SAFETY: the argument is a number or points to what the request reads or writes, which
    // outlives the call.
    unsafe { sys::call(libc::SYS_ioctl, [signed(fd), request, argument]) }
}
