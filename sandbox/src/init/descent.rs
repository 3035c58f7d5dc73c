//! Who descends from whom, as `/proc` tells it.
//!
//! What is read here is about a number, which is another process's once its first one has ended and
//! was waited for. A number and a moment of start name one process for good: numbers are given out
//! in turn, and none comes twice within a tick of the clock.

#![expect(unsafe_code, reason = "system calls on descriptors of processes")]
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use super::root::decimal;
use crate::sys::{self, Errno, Sys, signed};
use std::ffi::CStr;
use std::os::fd::RawFd;

/// Fields between a process's parent and the number of its threads, in `/proc/PID/stat`.
const THREADS: usize = 15;
/// Parents that a chain has at most.
const LONGEST: usize = 128;

/// A process at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) parent: i32,
    /// When it started, in ticks since the boot.
    pub(super) start: u64,
    /// At least one of its threads lives.
    pub(super) is_alive: bool,
}

impl Process {
    /// What a directory `/proc` says of a number, if it lets it be seen.
    pub(super) fn read(proc: RawFd, number: i32) -> Option<Self> {
        Self::parse(stat(proc, number, &mut [0; 512])?)
    }

    /// "number (name) state parent ...", where the name is the program's choice and may contain
    /// anything, but is the only field in parentheses.
    fn parse(stat: &[u8]) -> Option<Self> {
        let end = stat.iter().rposition(|byte| *byte == b')')?;
        let fields = stat.get(end..)?.split(|byte| *byte == b' ');
        let mut fields = fields.skip(1);
        let state = fields.next()?;
        let parent = digits(fields.next()?)?;
        let threads = digits(fields.nth(THREADS)?)?;
        let start = digits(fields.nth(1)?)?;
        Some(Self {
            parent: i32::try_from(parent).ok()?,
            start,
            // The state is that of the first thread, which the others can outlive.
            is_alive: state != b"Z" || threads > 1,
        })
    }
}

/// `/proc/PID/stat` of a number, seen from a directory `/proc`.
pub(super) fn stat(proc: RawFd, number: i32, buffer: &mut [u8; 512]) -> Option<&[u8]> {
    let mut path = [0_u8; 16];
    let mut digits = [0; 10];
    let digits = decimal(u32::try_from(number).ok()?, &mut digits);
    let text = digits.iter().chain(b"/stat");
    for (slot, byte) in path.iter_mut().zip(text) {
        *slot = *byte;
    }
    let path = CStr::from_bytes_until_nul(&path).ok()?;
    sys::read_file(proc, path, buffer).ok()
}

/// A decimal number.
pub(super) fn digits(digits: &[u8]) -> Option<u64> {
    (!digits.is_empty()).then_some(())?;
    digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

/// The number of a process, but not 0.
pub(super) fn number(text: &[u8]) -> Option<i32> {
    let number = i32::try_from(digits(text)?).ok()?;
    (number > 0).then_some(number)
}

/// Opens `/proc`.
pub(super) fn open_proc() -> Sys<RawFd> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    sys::openat(libc::AT_FDCWD, c"/proc", flags, 0)
}

/// A descriptor of the process that has this number now.
pub(super) fn open(number: i32) -> Sys<RawFd> {
    // SAFETY: takes no pointers.
    let opened = unsafe { sys::call(libc::SYS_pidfd_open, [signed(number), 0]) }?;
    RawFd::try_from(opened).map_err(|_range| Errno(libc::EBADF))
}

/// Sends a signal to the process that a descriptor is of.
pub(super) fn send_signal(process: RawFd, signal: i32) -> Sys<()> {
    let args = [signed(process), signed(signal), 0, 0];
    // SAFETY: the only pointer is null.
    unsafe { sys::call(libc::SYS_pidfd_send_signal, args) }.map(drop)
}

/// Whether the process of a number that is held open descends from this one, `me`.
///
/// The chain of parents is read twice: where it is the same, each number in it was one process's
/// in between, since whoever loses a parent gets another one before that number is free.
pub(super) fn leads_to(me: i32, number: i32) -> bool {
    let Ok(proc) = open_proc() else {
        return false;
    };
    let mut chain = [(0, 0); LONGEST];
    let once = walk(proc, me, number, |at, process| {
        let slot = chain.get_mut(at);
        slot.map(|slot| *slot = (process.parent, process.start))
    });
    let again = once.and_then(|()| {
        walk(proc, me, number, |at, process| {
            let known = chain.get(at)?;
            (*known == (process.parent, process.start)).then_some(())
        })
    });
    sys::close(proc);
    again.is_some()
}

/// Shows each process from this one up to the last before `me`.
fn walk(
    proc: RawFd,
    me: i32,
    mut number: i32,
    mut show: impl FnMut(usize, Process) -> Option<()>,
) -> Option<()> {
    for at in 0..LONGEST {
        let process = Process::read(proc, number)?;
        show(at, process)?;
        if process.parent == me {
            return Some(());
        }
        number = process.parent;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_parentheses_cannot_lie() {
        let rest = "7 7 0 -1 4228108 6 0 0 0 0 0 0 0 20 0";
        let parsed = |start: &str, threads| {
            let stat = format!("{start} {rest} {threads} 0 815 0 0");
            Process::parse(stat.as_bytes())
        };
        let process = |parent, is_alive| Process {
            parent,
            start: 815,
            is_alive,
        };
        assert_eq!(parsed("7 (sh) S 5", "1"), Some(process(5, true)));
        assert_eq!(parsed("7 (x) S 1 ) R 5", "1"), Some(process(5, true)));
        assert_eq!(parsed("7 (sh) Z 0", "1"), Some(process(0, false)));
        assert_eq!(parsed("7 (sh) Z 5", "2"), Some(process(5, true)));
        assert_eq!(parsed("7 (sh) S 5", ""), None);
        assert_eq!(Process::parse(b"7 (sh) S 5 7 7"), None);
        assert_eq!(Process::parse(b"7 (sh"), None);
        assert_eq!(number(b"12x"), None);
        assert_eq!(number(b""), None);
        assert_eq!(number(b"0"), None);
        assert_eq!(number(b"4194303"), Some(4_194_303));
    }

    #[test]
    fn a_chain_of_parents_leads_to_whoever_is_in_it() {
        let me = sys::getpid();
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & echo $!; read line; kill $!"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 16];
        let read = std::io::Read::read(shell.stdout.as_mut().unwrap(), &mut said).unwrap();
        let sleep = number(said.get(..read).unwrap().trim_ascii()).unwrap();
        let parent = i32::try_from(shell.id()).unwrap();
        assert!(leads_to(me, parent) && leads_to(me, sleep) && leads_to(parent, sleep));
        assert!(leads_to(sys::getppid(), sleep));
        for stranger in [me, sys::getppid(), 1, 0, -1, 4 << 20] {
            assert!(!leads_to(me, stranger), "{stranger}");
        }
        assert!(!leads_to(sleep, parent) && !leads_to(sleep, sleep));
        shell.wait().unwrap();
    }
}
