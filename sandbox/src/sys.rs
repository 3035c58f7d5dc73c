//! Raw system calls.
//!
//! The supervisor and the program run between `clone` and `execve`, as copies of a process that
//! may have had many threads. There, the C library must not be used: its wrappers touch `errno`,
//! which is thread-local memory, and may take locks. So system calls are made by hand, errors are
//! values, and nothing here allocates.
//!
//! This module contains only the calls that both sides of the sandbox share; what each call is for
//! is said where it is used.

#![expect(unsafe_code, reason = "system calls by hand, without the C library")]

use std::ffi::CStr;
use std::os::fd::RawFd;

/// An error number of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

/// The result of a system call.
pub(crate) type Sys<T> = Result<T, Errno>;

/// Makes a system call and returns what the kernel left in the result's register.
///
/// # Safety
/// The arguments must be what the call demands; pointers must be valid for what the kernel reads
/// or writes through them.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn raw(number: usize, args: [usize; 6]) -> usize {
    let result: usize;
    // SAFETY: the instruction follows the kernel's convention for x86-64: number in rax, arguments
    // in rdi, rsi, rdx, r10, r8, r9; rcx and r11 are lost. The rest is the caller's promise.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Makes a system call and returns what the kernel left in the result's register.
///
/// # Safety
/// The arguments must be what the call demands; pointers must be valid for what the kernel reads
/// or writes through them.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
unsafe fn raw(number: usize, args: [usize; 6]) -> usize {
    let result: usize;
    // SAFETY: the instruction follows the kernel's convention for arm64: number in x8, arguments
    // in x0 to x5, result in x0. The rest is the caller's promise.
    unsafe {
        core::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") args[0] => result,
            in("x1") args[1],
            in("x2") args[2],
            in("x3") args[3],
            in("x4") args[4],
            in("x5") args[5],
            options(nostack),
        );
    }
    result
}

/// The kernel's error numbers are below this; a result within it of the top is a negated one.
const MAX_ERRNO: usize = 4095;

/// Makes a system call and separates results from errors. Missing arguments are zero.
///
/// # Safety
/// The arguments must be what the call demands; pointers must be valid for what the kernel reads
/// or writes through them.
#[inline(always)]
pub(crate) unsafe fn call<const N: usize>(number: libc::c_long, args: [usize; N]) -> Sys<usize> {
    let mut all = [0; 6];
    for (slot, value) in all.iter_mut().zip(args) {
        *slot = value;
    }
    // SAFETY: the caller's promise.
    result(unsafe { raw(usize::try_from(number).unwrap_or(usize::MAX), all) })
}

/// Separates errors from results.
#[inline(always)]
pub(crate) const fn result(register: usize) -> Sys<usize> {
    match register.wrapping_neg() {
        errno @ 1..=MAX_ERRNO => Err(Errno(int(errno))),
        _ => Ok(register),
    }
}

/// A signed argument as the register holds it.
#[inline(always)]
#[expect(
    clippy::cast_sign_loss,
    reason = "the kernel takes the register's bits as signed again"
)]
pub(crate) const fn signed(value: i32) -> usize {
    value as isize as usize
}

/// The low 32 bits of a result, which the kernel defines as an `int`.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "descriptors and process numbers are ints"
)]
pub(crate) const fn int(value: usize) -> i32 {
    value as i32
}

/// The size of a small structure, in whatever type a C library gives to such a field.
pub(crate) fn small_size<T: TryFrom<usize> + Default>(bytes: usize) -> T {
    T::try_from(bytes).unwrap_or_default()
}

/// Repeats a call that a signal interrupted. Signals are blocked in the sandbox's own processes,
/// but a debugger or a stop can interrupt a call all the same.
#[inline(always)]
pub(crate) fn retry<T>(mut call: impl FnMut() -> Sys<T>) -> Sys<T> {
    loop {
        match call() {
            Err(Errno(libc::EINTR)) => {}
            other => return other,
        }
    }
}

pub(crate) fn close(fd: RawFd) {
    // SAFETY: takes no pointers; closing a descriptor of this process cannot break memory.
    let _ = unsafe { call(libc::SYS_close, [signed(fd)]) };
}

/// Closes `first..=last`.
pub(crate) fn close_range(first: u32, last: u32) -> Sys<()> {
    // SAFETY: takes no pointers.
    unsafe { call(libc::SYS_close_range, [first as usize, last as usize, 0]) }.map(drop)
}

pub(crate) fn dup3(from: RawFd, to: RawFd, flags: i32) -> Sys<()> {
    // SAFETY: takes no pointers.
    unsafe { call(libc::SYS_dup3, [signed(from), signed(to), signed(flags)]) }.map(drop)
}

pub(crate) fn openat(dir: RawFd, path: &CStr, flags: i32, mode: u32) -> Sys<RawFd> {
    let flags = flags | libc::O_CLOEXEC;
    // SAFETY: `path` ends with NUL and outlives the call.
    retry(|| unsafe {
        let args = [
            signed(dir),
            path.as_ptr() as usize,
            signed(flags),
            mode as usize,
        ];
        call(libc::SYS_openat, args)
    })
    .map(int)
}

/// `RESOLVE_*` of `openat2`.
pub(crate) const NO_MAGICLINKS: u64 = 2;
pub(crate) const NO_SYMLINKS: u64 = 4;
pub(crate) const BENEATH: u64 = 8;

/// Opens what is there, under conditions on the way to it.
pub(crate) fn openat2(dir: RawFd, path: &CStr, flags: i32, resolve: u64) -> Sys<RawFd> {
    // `struct open_how`: flags, mode, resolve.
    let how: [u64; 3] = [(flags | libc::O_CLOEXEC).cast_unsigned().into(), 0, resolve];
    let args = [
        signed(dir),
        path.as_ptr() as usize,
        &raw const how as usize,
        size_of_val(&how),
    ];
    // SAFETY: `path` ends with NUL; the kernel reads one `open_how`; both outlive the call.
    retry(|| unsafe { call(libc::SYS_openat2, args) }).map(int)
}

/// Whether the file system of a descriptor has no room for another block or another file. One that
/// tells no size is never full.
pub(crate) fn is_full(fd: RawFd) -> Sys<bool> {
    // SAFETY: all-zero bytes are a valid statfs.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    let args = [signed(fd), &raw mut stat as usize];
    // SAFETY: the kernel writes one statfs, which outlives the call.
    unsafe { call(libc::SYS_fstatfs, args) }?;
    let blocks = stat.f_blocks != 0 && stat.f_bavail == 0;
    let files = stat.f_files != 0 && stat.f_ffree == 0;
    Ok(blocks || files)
}

/// Device (major, minor) and inode of what a descriptor stands for.
pub(crate) fn file_id(fd: RawFd) -> Sys<((u32, u32), u64)> {
    // SAFETY: all-zero bytes are a valid statx.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    let args = [
        signed(fd),
        c"".as_ptr() as usize,
        signed(libc::AT_EMPTY_PATH),
        libc::STATX_INO as usize,
        &raw mut stat as usize,
    ];
    // SAFETY: the path is a constant that ends with NUL; the kernel writes one statx, which
    // outlives the call.
    unsafe { call(libc::SYS_statx, args) }?;
    Ok(((stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino))
}

pub(crate) fn mkdirat(dir: RawFd, path: &CStr, mode: u32) -> Sys<()> {
    // SAFETY: `path` ends with NUL and outlives the call.
    unsafe {
        call(
            libc::SYS_mkdirat,
            [signed(dir), path.as_ptr() as usize, mode as usize],
        )
    }
    .map(drop)
}

pub(crate) fn symlinkat(target: &CStr, dir: RawFd, path: &CStr) -> Sys<()> {
    let args = [
        target.as_ptr() as usize,
        signed(dir),
        path.as_ptr() as usize,
    ];
    // SAFETY: both strings end with NUL and outlive the call.
    unsafe { call(libc::SYS_symlinkat, args) }.map(drop)
}

pub(crate) fn unlinkat(dir: RawFd, path: &CStr, flags: i32) -> Sys<()> {
    // SAFETY: `path` ends with NUL and outlives the call.
    unsafe {
        call(
            libc::SYS_unlinkat,
            [signed(dir), path.as_ptr() as usize, signed(flags)],
        )
    }
    .map(drop)
}

pub(crate) fn fchownat(dir: RawFd, path: &CStr, uid: u32, gid: u32, flags: i32) -> Sys<()> {
    let args = [
        signed(dir),
        path.as_ptr() as usize,
        uid as usize,
        gid as usize,
        signed(flags),
    ];
    // SAFETY: `path` ends with NUL and outlives the call.
    unsafe { call(libc::SYS_fchownat, args) }.map(drop)
}

pub(crate) fn fchmodat(dir: RawFd, path: &CStr, mode: u32) -> Sys<()> {
    // SAFETY: `path` ends with NUL and outlives the call.
    unsafe {
        call(
            libc::SYS_fchmodat,
            [signed(dir), path.as_ptr() as usize, mode as usize],
        )
    }
    .map(drop)
}

pub(crate) fn read(fd: RawFd, buffer: &mut [u8]) -> Sys<usize> {
    let (start, len) = (buffer.as_mut_ptr() as usize, buffer.len());
    // SAFETY: the kernel writes at most `len` bytes to the buffer, which is borrowed for the call.
    retry(|| unsafe { call(libc::SYS_read, [signed(fd), start, len]) })
}

pub(crate) fn write(fd: RawFd, bytes: &[u8]) -> Sys<usize> {
    let (start, len) = (bytes.as_ptr() as usize, bytes.len());
    // SAFETY: the kernel reads at most `len` bytes of the slice, which is borrowed for the call.
    retry(|| unsafe { call(libc::SYS_write, [signed(fd), start, len]) })
}

/// Writes everything.
pub(crate) fn write_all(fd: RawFd, mut bytes: &[u8]) -> Sys<()> {
    while !bytes.is_empty() {
        let written = write(fd, bytes)?;
        bytes = bytes
            .get(written..)
            .filter(|_| written > 0)
            .ok_or(Errno(libc::EIO))?;
    }
    Ok(())
}

/// Opens, writes and closes a file that exists, such as one of `/proc`.
pub(crate) fn write_file(dir: RawFd, path: &CStr, bytes: &[u8]) -> Sys<()> {
    let fd = openat(dir, path, libc::O_WRONLY, 0)?;
    let result = write_all(fd, bytes);
    close(fd);
    result
}

/// Opens, reads and closes a file, and returns what fits into the buffer.
pub(crate) fn read_file<'b>(dir: RawFd, path: &CStr, buffer: &'b mut [u8]) -> Sys<&'b [u8]> {
    let fd = openat(dir, path, libc::O_RDONLY, 0)?;
    let mut filled = 0;
    let result = loop {
        let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) else {
            break Ok(());
        };
        match read(fd, rest) {
            Ok(0) => break Ok(()),
            Ok(count) => filled += count,
            Err(errno) => break Err(errno),
        }
    };
    close(fd);
    result.map(|()| buffer.get(..filled).unwrap_or_default())
}

pub(crate) fn prctl(operation: i32, args: [usize; 4]) -> Sys<usize> {
    let [a, b, c, d] = args;
    // SAFETY: callers pass no pointers but such as are valid for the whole process.
    unsafe { call(libc::SYS_prctl, [signed(operation), a, b, c, d]) }
}

pub(crate) fn kill(pid: i32, signal: i32) -> Sys<()> {
    // SAFETY: takes no pointers.
    unsafe { call(libc::SYS_kill, [signed(pid), signed(signal)]) }.map(drop)
}

pub(crate) fn getpid() -> i32 {
    // SAFETY: takes no arguments and cannot fail.
    unsafe { call(libc::SYS_getpid, []) }.map(int).unwrap_or(0)
}

pub(crate) fn getppid() -> i32 {
    // SAFETY: takes no arguments and cannot fail.
    unsafe { call(libc::SYS_getppid, []) }.map(int).unwrap_or(0)
}

pub(crate) fn setsid() -> Sys<()> {
    // SAFETY: takes no arguments.
    unsafe { call(libc::SYS_setsid, []) }.map(drop)
}

pub(crate) fn chdir(path: &CStr) -> Sys<()> {
    // SAFETY: `path` ends with NUL and outlives the call.
    unsafe { call(libc::SYS_chdir, [path.as_ptr() as usize]) }.map(drop)
}

pub(crate) fn fchdir(fd: RawFd) -> Sys<()> {
    // SAFETY: takes no pointers.
    unsafe { call(libc::SYS_fchdir, [signed(fd)]) }.map(drop)
}

/// Ends this process without running anything.
pub(crate) fn exit(code: i32) -> ! {
    loop {
        // SAFETY: takes no pointers and does not return.
        let _ = unsafe { call(libc::SYS_exit_group, [signed(code)]) };
    }
}

/// Reaps one child of any kind. `None`: there are children, but none has ended.
pub(crate) fn reap(options: i32) -> Sys<Option<(i32, i32)>> {
    let mut status: libc::c_int = 0;
    let at = &raw mut status as usize;
    let args = [signed(-1), at, signed(options | libc::__WALL), 0];
    // SAFETY: the kernel writes one int, to `status`, which outlives the call.
    let pid = retry(|| unsafe { call(libc::SYS_wait4, args) }).map(int)?;
    Ok((pid > 0).then_some((pid, status)))
}

/// Nanoseconds of a clock.
pub(crate) fn clock(id: i32) -> Sys<u64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec, to `time`, which outlives the call.
    unsafe {
        call(
            libc::SYS_clock_gettime,
            [signed(id), &raw mut time as usize],
        )
    }?;
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    Ok(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Waits until one of the descriptors is ready, at most `timeout` nanoseconds.
pub(crate) fn poll(fds: &mut [libc::pollfd], timeout: Option<u64>) -> Sys<usize> {
    let time = timeout.map(|nanos| libc::timespec {
        tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(nanos % 1_000_000_000).unwrap_or(0),
    });
    let at = time
        .as_ref()
        .map_or(0, |time| std::ptr::from_ref(time) as usize);
    let (start, len) = (fds.as_mut_ptr() as usize, fds.len());
    // SAFETY: the kernel reads and writes `len` entries of the borrowed slice and reads the time,
    // which outlives the call.
    unsafe { call(libc::SYS_ppoll, [start, len, at, 0, 0]) }
}

/// Peak resident size in bytes and CPU time in nanoseconds of `who`.
pub(crate) fn usage(who: i32) -> Sys<(u64, u64)> {
    // SAFETY: all-zero bytes are a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one rusage, which outlives the call.
    unsafe { call(libc::SYS_getrusage, [signed(who), &raw mut usage as usize]) }?;
    let nanos = |time: libc::timeval| {
        let micros = time.tv_sec.unsigned_abs().saturating_mul(1_000_000);
        micros
            .saturating_add(time.tv_usec.unsigned_abs())
            .saturating_mul(1000)
    };
    let peak = usage.ru_maxrss.unsigned_abs().saturating_mul(1024);
    Ok((
        peak,
        nanos(usage.ru_utime).saturating_add(nanos(usage.ru_stime)),
    ))
}

/// The arguments of `clone3`, as of Linux 5.7.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct CloneArgs {
    pub(crate) flags: u64,
    pub(crate) pidfd: u64,
    pub(crate) child_tid: u64,
    pub(crate) parent_tid: u64,
    pub(crate) exit_signal: u64,
    pub(crate) stack: u64,
    pub(crate) stack_size: u64,
    pub(crate) tls: u64,
    pub(crate) set_tid: u64,
    pub(crate) set_tid_size: u64,
    pub(crate) cgroup: u64,
}

/// All 64 signals.
pub(crate) const ALL_SIGNALS: u64 = u64::MAX;

/// Sets the calling thread's blocked signals and returns the former set.
pub(crate) fn block_signals(set: u64) -> u64 {
    let mut old: u64 = 0;
    let (new, old_at) = (&raw const set as usize, &raw mut old as usize);
    let args = [signed(libc::SIG_SETMASK), new, old_at, size_of::<u64>()];
    // SAFETY: the kernel reads and writes one 8-byte set each, both of which outlive the call.
    let _ = unsafe { call(libc::SYS_rt_sigprocmask, args) };
    old
}

/// Gives a signal its default action.
pub(crate) fn default_action(signal: i32) -> Sys<()> {
    // `struct kernel_sigaction` with everything zero: SIG_DFL, no flags, no restorer, no mask.
    let default = [0_u64; 4];
    let args = [
        signed(signal),
        default.as_ptr() as usize,
        0,
        size_of::<u64>(),
    ];
    // SAFETY: the kernel reads a `kernel_sigaction` of at most four words. The table of actions is
    // this process's own.
    unsafe { call(libc::SYS_rt_sigaction, args) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_values() {
        assert_eq!(
            openat(libc::AT_FDCWD, c"/does/not/exist", 0, 0),
            Err(Errno(libc::ENOENT))
        );
        assert!(i64::from(getpid()) == i64::from(std::process::id()));
    }

    #[test]
    fn a_file_is_read_as_far_as_the_buffer_goes() {
        let mut buffer = [0; 6];
        let read = read_file(libc::AT_FDCWD, c"/proc/self/status", &mut buffer).unwrap();
        assert_eq!(read, b"Name:\t");
    }
}
