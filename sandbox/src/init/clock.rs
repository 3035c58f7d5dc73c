//! CPU time of a program and all that it starts, counted by the kernel's own software counter.
//!
//! Without a control group the times of children are told when they are waited for, and of a child
//! that its parent ignores never. A counter that children inherit has both at any time. A filter
//! around this process or `kernel.perf_event_paranoid` may refuse it; then there is none.

#![expect(unsafe_code, reason = "a system call that takes a structure")]

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

/// Counts for a process with one thread, and for whatever that starts from now on.
pub(super) fn open(process: i32) -> Sys<RawFd> {
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
        signed(process),
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
