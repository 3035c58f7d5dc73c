//! Starts processes that share this one's memory, each on a stack of its own.
//!
//! A copy of the caller, as `fork` makes it, costs the more the more memory the caller has. So the
//! supervisor and the program before it executes are no copies: they run in the caller's memory
//! (`CLONE_VM`), as after `vfork`, while the caller goes on. What they need stays where it is until
//! they have ended ([`crate::plan`]); what they change is their own stack.
//!
//! They share the thread-local memory of the thread that started them as well, which is one more
//! reason why they must make raw system calls only: a wrapper of the C library would overwrite that
//! thread's `errno`.

#![expect(
    unsafe_code,
    reason = "the standard library has no processes that share memory"
)]

use crate::sys::{self, CloneArgs, Errno, Sys};
use std::ffi::c_void;
use std::io;

/// What a new process does: it is given one pointer, and never returns.
pub(crate) type Entry = extern "C" fn(*const c_void) -> !;

/// Bytes of a stack. The deepest path through [`crate::init`] takes less than half, and less than a
/// quarter when optimised.
const STACK: usize = 256 << 10;
/// Bytes below a stack that cannot be touched; no smaller than any page.
const GUARD: usize = 64 << 10;

/// A stack with an inaccessible range below it.
#[derive(Debug)]
pub(crate) struct Stack {
    start: usize,
}

impl Stack {
    pub(crate) fn new() -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE;
        let args = [
            0,
            GUARD + STACK,
            sys::signed(protection),
            sys::signed(flags),
            sys::signed(-1),
            0,
        ];
        // SAFETY: asks for fresh memory.
        let start = unsafe { sys::call(libc::SYS_mmap, args) }?;
        let stack = Self { start };
        let nothing = sys::signed(libc::PROT_NONE);
        // SAFETY: the range is the lower part of this stack's own memory, which nobody uses yet.
        unsafe { sys::call(libc::SYS_mprotect, [start, GUARD, nothing]) }?;
        Ok(stack)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the memory is this stack's own, and whoever ran on it has ended: that is what
        // `Stack`'s owner waits for.
        let _ = unsafe { sys::call(libc::SYS_munmap, [self.start, GUARD + STACK]) };
    }
}

/// Starts a process in this memory. Returns its number.
///
/// # Safety
/// `stack`, and all that `entry` reaches through `argument`, must stay as long as the new process
/// runs without executing another program, and nothing else may run on the stack. The new process
/// must make only raw system calls. All signals must be blocked, so that no handler runs in it.
pub(crate) unsafe fn clone(
    mut args: CloneArgs,
    stack: &Stack,
    entry: Entry,
    argument: *const c_void,
) -> Sys<i32> {
    args.flags |= u64::from(libc::CLONE_VM.cast_unsigned());
    args.stack = (stack.start + GUARD) as u64;
    args.stack_size = STACK as u64;
    let at = &raw const args as usize;
    let size = size_of::<CloneArgs>();
    // SAFETY: the kernel reads `CloneArgs`, which outlives the call; the rest is the caller's
    // promise.
    let cloned = unsafe { raw(libc::SYS_clone3, [at, size, 0], entry, argument) };
    match (cloned, old_flags(&args)) {
        // Container runtimes refuse `clone3` so, because their filter cannot look into it.
        (Err(Errno(libc::ENOSYS)), Some(flags)) => {
            let top = stack.start + GUARD + STACK;
            let pidfd = usize::try_from(args.pidfd).unwrap_or(0);
            // SAFETY: as above; the kernel stores at most a descriptor at `pidfd`, as `clone3`
            // would have done.
            unsafe { raw(libc::SYS_clone, [flags, top, pidfd], entry, argument) }
        }
        (cloned, _) => cloned,
    }
}

/// What `clone` takes instead, where it can do the same: it knows 32 bits of flags, the lowest of
/// which are the exit signal, and stores the descriptor where `clone3` has the parent's number.
fn old_flags(args: &CloneArgs) -> Option<usize> {
    let flags = u32::try_from(args.flags | args.exit_signal).ok()?;
    usize::try_from(flags).ok()
}

/// Makes one of the `clone` calls. The new process begins with an empty stack, on which it calls
/// `entry`.
///
/// # Safety
/// As for [`clone`], and the arguments must be what the call demands, a stack among them.
unsafe fn raw(
    number: libc::c_long,
    args: [usize; 3],
    entry: Entry,
    argument: *const c_void,
) -> Sys<i32> {
    let number = usize::try_from(number).unwrap_or(usize::MAX);
    let result: usize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel's convention for x86-64. The new process has 0 in rax, all other registers
    // as they were, and the new stack, whose top is aligned as a call demands; it does not return
    // from it. For this process nothing but rax, rcx and r11 changes. The last three arguments of
    // `clone` (the child's number, thread-local memory) are not asked for by the flags.
    unsafe {
        core::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") number => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") 0,
            in("r8") 0,
            in("r12") argument,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the kernel's convention for arm64; for the rest see above.
    unsafe {
        core::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            in("x8") number,
            inlateout("x0") args[0] => result,
            in("x1") args[1],
            in("x2") args[2],
            in("x3") 0,
            in("x4") 0,
            in("x20") argument,
            in("x21") entry,
        );
    }
    sys::result(result).map(sys::int)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    struct Shared {
        value: Cell<u32>,
        depth: Cell<usize>,
    }

    extern "C" fn child(argument: *const c_void) -> ! {
        // SAFETY: the test passes a `Shared` that outlives this process.
        let shared = unsafe { &*argument.cast::<Shared>() };
        let local = 0_u8;
        shared.depth.set(&raw const local as usize);
        shared.value.set(42);
        sys::exit(7)
    }

    #[test]
    fn a_process_runs_in_this_memory_on_its_own_stack() {
        let shared = Shared {
            value: Cell::new(0),
            depth: Cell::new(0),
        };
        let stack = Stack::new().unwrap();
        let args = CloneArgs {
            flags: libc::CLONE_VFORK.cast_unsigned().into(),
            ..CloneArgs::default()
        };
        let signals = sys::block_signals(sys::ALL_SIGNALS);
        // SAFETY: by CLONE_VFORK the child has ended when the call returns.
        let pid = unsafe { clone(args, &stack, child, (&raw const shared).cast()) };
        sys::block_signals(signals);
        let pid = pid.unwrap();
        assert_eq!(shared.value.get(), 42);
        assert!((stack.start + GUARD..stack.start + GUARD + STACK).contains(&shared.depth.get()));
        let mut status = 0;
        // SAFETY: the call writes one int.
        let reaped = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
        assert_eq!((reaped, libc::WEXITSTATUS(status)), (pid, 7));
    }
}
