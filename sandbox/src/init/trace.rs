//! Stops a thread at the end of its `execve`, before the new program's first instruction.
//!
//! A thread is seized, which does not stop it, and then let go on with the call that the kernel
//! holds. It is asked to stop at once as well: the kernel looks at that only on the way out of a
//! call. So the first stop, whatever it is, comes when the call is over: `PTRACE_EVENT_EXEC` if
//! there is a new program, any other one if there is none. At its first stop a thread is released
//! again, with the signal that it stopped for, if any; a release also takes back a stop that is
//! still to come, and leaves a process stopped that was to be.
//!
//! Where the program has a process namespace, whoever is seized dies with the supervisor. Elsewhere
//! it is released: its number can be that of a stranger by the time it is seized, whom the death of
//! a supervisor must not kill.

#![expect(unsafe_code, reason = "system calls")]

use crate::sys::{self, Errno, Sys, signed};

const DETACH: usize = 17;
/// `PTRACE_GETEVENTMSG`.
const MESSAGE: usize = 0x4201;
const SEIZE: usize = 0x4206;
const INTERRUPT: usize = 0x4207;
/// `PTRACE_O_TRACEEXEC`.
const TRACE_EXEC: usize = 1 << 4;
/// `PTRACE_O_EXITKILL`.
const EXIT_KILL: usize = 1 << 20;
const EVENT_EXEC: i32 = 4;

/// Whose numbers are seized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Those of a namespace, all of which are the program's.
    Namespace,
    /// Those of the host.
    Host,
}

/// Why a seized thread stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// It has executed a program, which has not begun.
    Executed,
    /// A signal is about to be delivered.
    Signal(i32),
    /// It was asked to stop, or its process is being stopped.
    Asked,
}

impl Stop {
    /// What a wait status tells. `None`: of an end.
    pub(super) const fn from_status(status: i32) -> Option<Self> {
        match (status & 0xff, status >> 16) {
            (0x7f, 0) => Some(Self::Signal(status >> 8 & 0xff)),
            (0x7f, EVENT_EXEC) => Some(Self::Executed),
            (0x7f, _) => Some(Self::Asked),
            _ => None,
        }
    }
}

fn request(request: usize, thread: i32, data: usize) -> Sys<()> {
    let args = [request, signed(thread), 0, data];
    // SAFETY: none of the requests made with this takes a pointer.
    unsafe { sys::call(libc::SYS_ptrace, args) }.map(drop)
}

/// Sees to it that a thread stops when it has executed. Waits for whoever executes in its process;
/// there must be nobody.
pub(super) fn seize(thread: i32, reach: Reach) -> Sys<()> {
    let options = match reach {
        Reach::Namespace => TRACE_EXEC | EXIT_KILL,
        Reach::Host => TRACE_EXEC,
    };
    request(SEIZE, thread, options)
}

/// Makes a seized thread stop when it leaves the kernel.
pub(super) fn interrupt(thread: i32) -> Sys<()> {
    request(INTERRUPT, thread, 0)
}

/// Whether a seized thread is still stopped, and was not killed meanwhile.
pub(super) fn is_stopped(thread: i32) -> bool {
    message(thread).is_ok()
}

/// The number, before it executed, of the thread that stopped for that.
pub(super) fn executed_by(thread: i32) -> Sys<i32> {
    let message = message(thread)?;
    i32::try_from(message).map_err(|_range| Errno(libc::ESRCH))
}

fn message(thread: i32) -> Sys<libc::c_ulong> {
    let mut message: libc::c_ulong = 0;
    let args = [MESSAGE, signed(thread), 0, &raw mut message as usize];
    // SAFETY: the kernel writes one `unsigned long`, to `message`, which outlives the call.
    unsafe { sys::call(libc::SYS_ptrace, args) }.map(|_zero| message)
}

/// Lets a stopped thread go on, unseized. One that was killed meanwhile needs no release.
pub(super) fn release(thread: i32, stop: Stop) {
    let signal = match stop {
        Stop::Signal(signal) => signal,
        Stop::Executed | Stop::Asked => 0,
    };
    let _ = request(DETACH, thread, signed(signal));
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    #[test]
    fn stops_are_no_ends() {
        let of = Stop::from_status;
        assert_eq!(of(0x0700), None);
        assert_eq!(of(libc::SIGKILL), None);
        assert_eq!(of(libc::SIGSEGV | 0x80), None);
        assert_eq!(of(0x137f), Some(Stop::Signal(libc::SIGSTOP)));
        assert_eq!(of(0x0004_057f), Some(Stop::Executed));
        assert_eq!(of(0x0080_057f), Some(Stop::Asked));
        assert_eq!(of(0x0080_137f), Some(Stop::Asked));
    }

    /// Waits for a change of a process.
    pub(in crate::init) fn change(pid: i32) -> i32 {
        let mut status = 0;
        // SAFETY: the call writes one int.
        let changed = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
        assert_eq!(changed, pid);
        status
    }

    /// A shell that waits for a line.
    pub(in crate::init) fn shell(then: &str) -> (std::process::Child, i32) {
        use std::io::Read as _;
        use std::process::{Command, Stdio};
        let mut shell = Command::new("sh");
        let shell = shell.args(["-c", &format!("echo; read line; {then}")]);
        let shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        let mut begun = [0];
        let stdout = child.stdout.as_mut().unwrap();
        stdout.read_exact(&mut begun).unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        (child, pid)
    }

    #[test]
    fn who_is_released_has_its_signal_and_its_program() {
        let (_child, pid) = shell("");
        seize(pid, Reach::Host).unwrap();
        assert!(!is_stopped(pid));
        sys::kill(pid, libc::SIGTERM).unwrap();
        let stop = Stop::from_status(change(pid)).unwrap();
        assert_eq!(stop, Stop::Signal(libc::SIGTERM));
        assert!(is_stopped(pid));
        release(pid, stop);
        assert_eq!(libc::WTERMSIG(change(pid)), libc::SIGTERM);

        let (mut child, pid) = shell("exec true");
        seize(pid, Reach::Host).unwrap();
        drop(child.stdin.take());
        let stop = Stop::from_status(change(pid)).unwrap();
        assert_eq!(stop, Stop::Executed);
        assert_eq!(executed_by(pid), Ok(pid));
        // A stop that was still to come is taken back.
        interrupt(pid).unwrap();
        release(pid, stop);
        assert_eq!(libc::WEXITSTATUS(change(pid)), 0);

        let (_child, pid) = shell("");
        seize(pid, Reach::Host).unwrap();
        interrupt(pid).unwrap();
        let stop = Stop::from_status(change(pid)).unwrap();
        assert_eq!(stop, Stop::Asked);
        sys::kill(pid, libc::SIGKILL).unwrap();
        assert_eq!(libc::WTERMSIG(change(pid)), libc::SIGKILL);
        assert!(!is_stopped(pid));
    }
}
