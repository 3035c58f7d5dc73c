//! System calls by number, so that no library stands between a try and the kernel's answer.

#![expect(
    unsafe_code,
    reason = "trying arbitrary system calls is what this program is for"
)]

use libc::{c_int, c_long};
use std::ffi::CStr;
use std::io;
use std::marker::PhantomData;

/// One argument of a system call: a number, or the address of a live buffer.
#[derive(Clone, Copy)]
pub(crate) struct Arg<'a> {
    value: usize,
    buffer: PhantomData<&'a mut [u8]>,
}

impl Arg<'_> {
    const fn new(value: usize) -> Self {
        Self {
            value,
            buffer: PhantomData,
        }
    }
}

impl From<usize> for Arg<'_> {
    fn from(value: usize) -> Self {
        Self::new(value)
    }
}

impl From<u32> for Arg<'_> {
    fn from(value: u32) -> Self {
        Self::new(value as usize)
    }
}

impl From<u64> for Arg<'_> {
    fn from(value: u64) -> Self {
        // Both architectures have 64 bits.
        Self::new(usize::try_from(value).unwrap_or(usize::MAX))
    }
}

impl From<c_int> for Arg<'_> {
    fn from(value: c_int) -> Self {
        Self::new((value as isize).cast_unsigned())
    }
}

impl<'a> From<&'a CStr> for Arg<'a> {
    fn from(text: &'a CStr) -> Self {
        Self::new(text.as_ptr().addr())
    }
}

impl<'a> From<&'a mut [u8]> for Arg<'a> {
    fn from(buffer: &'a mut [u8]) -> Self {
        Self::new(buffer.as_mut_ptr().expose_provenance())
    }
}

impl<'a> From<&'a mut [u64]> for Arg<'a> {
    fn from(buffer: &'a mut [u64]) -> Self {
        Self::new(buffer.as_mut_ptr().expose_provenance())
    }
}

/// Makes a system call. What it changes must be within the buffers that are passed.
pub(crate) fn call_with(number: c_long, arguments: &[Arg<'_>]) -> io::Result<usize> {
    let at = |index: usize| arguments.get(index).map_or(0, |argument| argument.value);
    // SAFETY: addresses among the arguments are those of buffers borrowed for the call, and each
    // caller sizes them by what the call writes. The process does nothing else meanwhile, and
    // calls that would change its own memory map are made only where they add to it, where they
    // must fail or where the process ends right after.
    let result = unsafe { libc::syscall(number, at(0), at(1), at(2), at(3), at(4), at(5)) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(result).unwrap_or_default())
}

/// [`call_with`] with arguments of different types.
macro_rules! call {
    ($number:expr $(, $argument:expr)* $(,)?) => {
        $crate::sys::call_with($number, &[$($crate::sys::Arg::from($argument)),*])
    };
}
pub(crate) use call;

/// A null pointer as an argument.
pub(crate) const NULL: usize = 0;

/// Runs `child` in a child process and returns its process number. `child` gives the exit status.
pub(crate) fn fork(child: impl FnOnce() -> u8) -> io::Result<c_int> {
    // SAFETY: this program has a single thread, so the child may do whatever the parent may.
    match unsafe { libc::fork() } {
        0 => {
            let status = child();
            // SAFETY: ends the process without running the parent's handlers.
            unsafe { libc::_exit(status.into()) }
        }
        pid if pid > 0 => Ok(pid),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Does nothing until killed.
pub(crate) fn hang() -> ! {
    loop {
        let _ = call!(libc::SYS_ppoll, NULL, 0, NULL, NULL, 0);
    }
}

/// A child that does nothing until it is killed, at the latest when this process ends.
pub(crate) fn idle_child() -> io::Result<c_int> {
    fork(|| {
        let _ = call!(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        hang()
    })
}

/// How a child ended.
pub(crate) enum Ended {
    Exited(u8),
    Signaled(c_int),
}

/// Waits for a child to end.
pub(crate) fn wait(pid: c_int) -> io::Result<Ended> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a live integer.
        let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
        if waited < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        if libc::WIFSIGNALED(status) {
            return Ok(Ended::Signaled(libc::WTERMSIG(status)));
        }
        if libc::WIFEXITED(status) {
            return Ok(Ended::Exited(
                u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX),
            ));
        }
        // Stopped under a tracer: let it run on to its end.
        let _ = call!(libc::SYS_kill, pid, libc::SIGKILL);
    }
}

/// Ignores a signal from now on.
pub(crate) fn ignore(signal: c_int) {
    // SAFETY: `SIG_IGN` installs no code.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Restores a signal's default action.
pub(crate) fn restore(signal: c_int) {
    // SAFETY: `SIG_DFL` installs no code.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// `getpid` through the 32-bit entry of x86_64, which has its own table of system calls.
#[cfg(target_arch = "x86_64")]
pub(crate) fn int80_getpid() -> io::Result<usize> {
    let result: i32;
    // SAFETY: number 20 of the 32-bit table is `getpid`: no arguments, no memory. The kernel may
    // change r8 to r11.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inout("eax") 20_i32 => result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    Ok(usize::try_from(result).unwrap_or_default())
}

/// A shared anonymous mapping of `len` bytes with every page touched.
pub(crate) fn share_memory(len: usize) -> io::Result<()> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    for page in (0..len).step_by(4096) {
        // SAFETY: `page` lies within the mapping, which nobody else uses.
        unsafe { start.cast::<u8>().add(page).write_volatile(1) };
    }
    Ok(())
}

/// Has the kernel refuse, from now on and for every descendant, what container runtimes refuse by
/// default: `unshare`, `setns`, `mount` and `clone` with namespaces by `EPERM`, `clone3` by `ENOSYS`
/// so that the C library takes `clone`.
pub(crate) fn refuse_namespaces() -> io::Result<()> {
    const LOAD: u64 = 0x20;
    const RETURN: u64 = 0x06;
    const IF_EQUAL: u64 = 0x15;
    const IF_ANY_BIT: u64 = 0x45;
    const ALLOW: u32 = 0x7fff_0000;
    const ERROR: u32 = 0x0005_0000;
    // `struct sock_filter`: code, jump if true, jump if false, value.
    let step = |code: u64, yes: u64, no: u64, value: u32| {
        code | (yes << 16) | (no << 24) | (u64::from(value) << 32)
    };
    let number = |call: c_long| u32::try_from(call).unwrap_or(u32::MAX);
    let namespaces = (libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET)
        .cast_unsigned();
    let mut filter = [
        step(LOAD, 0, 0, 0),
        step(IF_EQUAL, 6, 0, number(libc::SYS_unshare)),
        step(IF_EQUAL, 5, 0, number(libc::SYS_setns)),
        step(IF_EQUAL, 4, 0, number(libc::SYS_mount)),
        step(IF_EQUAL, 4, 0, number(libc::SYS_clone3)),
        step(IF_EQUAL, 0, 4, number(libc::SYS_clone)),
        step(LOAD, 0, 0, 16),
        step(IF_ANY_BIT, 0, 2, namespaces),
        step(RETURN, 0, 0, ERROR | libc::EPERM.cast_unsigned()),
        step(RETURN, 0, 0, ERROR | libc::ENOSYS.cast_unsigned()),
        step(RETURN, 0, 0, ALLOW),
    ];
    let len = filter.len() as u64;
    let mut program = [len, filter.as_mut_ptr().expose_provenance() as u64];
    call!(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)?;
    call!(
        libc::SYS_prctl,
        libc::PR_SET_SECCOMP,
        2,
        &mut program[..],
        0,
        0
    )?;
    Ok(())
}
