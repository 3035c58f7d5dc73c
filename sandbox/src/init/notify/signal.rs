//! Signals, where nothing but the filter keeps them from other processes of the same user.
//!
//! Whom a call is about is in registers, so the program cannot change it after the look. A process
//! signals itself by its own call: the number stays its own as long as it is held, and the C library
//! takes some signals only from the process itself. Another one is held open and must descend from
//! the supervisor; then the signal is sent to just that one. Whatever else it is, also if it is not
//! there, the answer is the same.

#![expect(unsafe_code, reason = "a system call on threads")]

use super::listener::{self, Call};
use super::rights::Rights;
use super::target::thread_group;
use super::{Fd, OUTSIDE, low};
use crate::init::descent;
use crate::sys::{self, Sys, signed};
use std::os::fd::RawFd;

/// Who makes the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    /// The program, by the call that is held.
    Program,
    /// It is done.
    Supervisor,
}

pub(super) const fn is_meant(call: libc::c_long) -> bool {
    matches!(call, libc::SYS_kill | libc::SYS_tkill | libc::SYS_tgkill)
}

/// Sends a signal, or tells that the program may.
pub(super) fn send(listener: RawFd, call: &Call, rights: &Rights) -> Sys<Sender> {
    let [first, second, ..] = call.args.map(|argument| low(argument).cast_signed());
    let caller = call.pid.cast_signed();
    let (is_own, group) = match call.number {
        libc::SYS_kill | libc::SYS_tgkill => (is_of(caller, first), None),
        libc::SYS_tkill if first == caller => (true, None),
        libc::SYS_tkill => (false, Some(thread_group(call.pid)?)),
        _ => return Err(OUTSIDE),
    };
    // Only now is it sure whose number the caller's was.
    listener::is_valid(listener, call.id)?;
    if is_own {
        return Ok(Sender::Program);
    }
    let sent = match group {
        Some(group) => rights.as_program(|| to_thread(group, first, second)),
        None if call.number == libc::SYS_kill => rights.as_program(|| to_process(first, second)),
        None => Err(OUTSIDE),
    };
    sent.map(|()| Sender::Supervisor)
}

/// Whether a thread is one of this process.
fn is_of(thread: i32, process: i32) -> bool {
    to_thread(process, thread, 0).is_ok()
}

fn to_thread(process: i32, thread: i32, signal: i32) -> Sys<()> {
    let args = [signed(process), signed(thread), signed(signal)];
    // SAFETY: takes no pointers.
    unsafe { sys::call(libc::SYS_tgkill, args) }.map(drop)
}

fn to_process(number: i32, signal: i32) -> Sys<()> {
    let process = Fd(descent::open(number).map_err(|_errno| OUTSIDE)?);
    if !descent::leads_to(sys::getpid(), number) {
        return Err(OUTSIDE);
    }
    descent::send_signal(process.0, signal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Errno;

    #[test]
    fn threads_are_known_by_their_process() {
        let me = sys::getpid();
        assert!(is_of(me, me));
        std::thread::spawn(move || {
            // SAFETY: takes no arguments.
            let thread = unsafe { libc::gettid() };
            assert!(thread != me && is_of(thread, me) && !is_of(me, thread));
            assert_eq!(thread_group(thread.unsigned_abs()), Ok(me));
        })
        .join()
        .unwrap();
        assert!(!is_of(1, me) && !is_of(me, 1) && !is_of(me, 0) && !is_of(me, -1));
    }

    #[test]
    fn only_descendants_are_signalled() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn();
        let child = child.as_mut().unwrap();
        let number = i32::try_from(child.id()).unwrap();
        assert_eq!(to_process(number, 0), Ok(()));
        assert_eq!(to_process(number, 65), Err(Errno(libc::EINVAL)));
        for other in [sys::getpid(), sys::getppid(), 1, 0, -number, 4 << 20] {
            assert_eq!(to_process(other, 0), Err(OUTSIDE), "{other}");
        }
        assert_eq!(to_process(number, libc::SIGKILL), Ok(()));
        child.wait().unwrap();
        assert_eq!(to_process(number, 0), Err(OUTSIDE));
    }
}
