//! CPU time of a program and all that it starts, counted by the kernel's own software counter.
//!
//! Without a control group the times of children are told when they are waited for, and of a child
//! that its parent ignores never. A counter that children inherit has both at any time, and what this
//! process does on the program's behalf as well. A filter around this process or
//! `kernel.perf_event_paranoid` may refuse it; then there is none. The kernel takes it from a process
//! that executes a file which may not be read.

#![expect(unsafe_code, reason = "a system call that takes a structure")]

use super::descent;
use crate::sys::{self, Errno, Sys, signed};
use std::os::fd::RawFd;

/// `struct perf_event_attr` in its first version.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint_kind: u32,
    breakpoint: u64,
}

const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_SW_TASK_CLOCK: u64 = 1;
/// `inherit`.
const INHERIT: u64 = 1 << 1;
/// `exclude_kernel` and `exclude_hv`, without which only the privileged may count. This counter
/// counts the time in the kernel all the same.
const UNPRIVILEGED: u64 = 1 << 5 | 1 << 6;
const PERF_FLAG_FD_CLOEXEC: usize = 1 << 3;

/// Counts for this process, and for whatever it starts from now on.
pub(super) fn open() -> Sys<RawFd> {
    let attributes = Attributes {
        kind: PERF_TYPE_SOFTWARE,
        size: sys::small_size(size_of::<Attributes>()),
        config: PERF_COUNT_SW_TASK_CLOCK,
        flags: INHERIT | UNPRIVILEGED,
        ..Attributes::default()
    };
    let any = signed(-1);
    let args = [
        &raw const attributes as usize,
        0,
        any,
        any,
        PERF_FLAG_FD_CLOEXEC,
    ];
    // SAFETY: the kernel reads one structure of the size that it says, which outlives the call.
    let counter = unsafe { sys::call(libc::SYS_perf_event_open, args) }?;
    RawFd::try_from(counter).map_err(|_range| Errno(libc::EBADF))
}

/// Nanoseconds so far.
pub(super) fn read(counter: RawFd) -> Option<u64> {
    let mut value = [0; 8];
    let len = sys::read(counter, &mut value).ok()?;
    (len == value.len()).then(|| u64::from_ne_bytes(value))
}

/// Nanoseconds that children of a process took which it has waited for.
pub(super) fn waited(process: i32) -> Option<u64> {
    let proc = descent::open_proc().ok()?;
    let waited = descent::stat(proc, process, &mut [0; 512]).and_then(waited_in);
    sys::close(proc);
    waited
}

/// `cutime` and `cstime` of "number (name) state ...", where the name is the program's choice and may
/// contain anything.
fn waited_in(stat: &[u8]) -> Option<u64> {
    /// Fields between the state and the first of the two.
    const BETWEEN: usize = 12;
    /// Of a second: `USER_HZ`.
    const TICK: u64 = 10_000_000;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let behind = stat.get(end..)?.strip_prefix(b") ")?;
    let mut fields = behind.split(|byte| *byte == b' ').skip(1 + BETWEEN);
    let mut ticks = || descent::digits(fields.next()?);
    let (user, system) = (ticks()?, ticks()?);
    Some(user.saturating_add(system).saturating_mul(TICK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_of_children_are_found_behind_any_name() {
        let stat = b"7 (a ) S 1 2) R 1 7 7 0 -1 4194304 90 0 0 0 11 12 13 14 20 0 1 0 5\n";
        assert_eq!(waited_in(stat), Some(270_000_000));
        for broken in [
            &b""[..],
            b"7 (a)",
            b"7 (a) R 1 7 7",
            b"7 (a) R 1 7 7 0 -1 4 9 0 0 0 1 1 x 4 ",
        ] {
            assert_eq!(waited_in(broken), None);
        }
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(waited(own).is_some());
        assert_eq!(waited(i32::MAX), None);
    }
}
