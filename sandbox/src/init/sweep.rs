//! Ends every descendant where there is no process namespace to do it.
//!
//! The supervisor is a child subreaper, so whatever loses its parent becomes its child: every
//! process of the sandbox has a chain of parents that leads here, also a daemon with a session of
//! its own. A program that forks without end could outrun a walk that kills one by one, so all are
//! stopped first, again and again, until two walks in a row find nobody new; whoever is stopped
//! cannot fork. Then all are killed. The limit on processes bounds the number.
//!
//! Each walk finds the descendants anew, so that the number of one that ended in between, given to
//! a stranger since, is not mistaken for it.

#![expect(
    unsafe_code,
    reason = "a bitmap in memory of its own, without an allocator"
)]

use super::remove::for_each_entry;
use crate::sys::{self, Errno, signed};
use std::ffi::CStr;
use std::os::fd::RawFd;

/// One more than the largest process number of a 64-bit kernel.
const PIDS: usize = 4 << 20;
/// Fields between a process's parent and the number of its threads, in `/proc/PID/stat`.
const THREADS: usize = 15;
/// Walks that stop; a sandbox in which somebody new appears every time is killed on the run.
const WALKS: u32 = 512;

/// Who is told what a wait told.
pub(super) trait Witness {
    /// A process has ended, or one that is seized has stopped, and must not stay so.
    fn reaped(&mut self, pid: i32, status: i32);

    /// Somebody is seized who is no descendant, and need not end.
    fn has_strangers(&self) -> bool;
}

/// Kills all descendants and reaps them.
pub(super) fn end_descendants(witness: &mut impl Witness) {
    let me = sys::getpid();
    let (Some(mut now), Some(mut before)) = (Pids::new(), Pids::new()) else {
        return;
    };
    let mut quiet = 0;
    loop {
        loop {
            match sys::reap(libc::WNOHANG) {
                Ok(Some((pid, status))) => witness.reaped(pid, status),
                Ok(None) => break,
                // No child is left, so no descendant is.
                Err(_) => return,
            }
        }
        freeze(me, &mut now, &mut before);
        now.clear();
        find(me, &mut now);
        now.for_each(|pid| {
            let _ = sys::kill(pid, libc::SIGKILL);
        });
        if witness.has_strangers() {
            // A wait would be for these too. They are let go when this process ends.
            quiet = if now.used().is_empty() { quiet + 1 } else { 0 };
            match quiet {
                0 => {}
                1 => continue,
                _ => return,
            }
        }
        match sys::reap(0) {
            Ok(Some((pid, status))) => witness.reaped(pid, status),
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

/// Stops all descendants.
fn freeze(me: i32, now: &mut Pids, before: &mut Pids) {
    before.clear();
    let mut quiet = 0;
    for _ in 0..WALKS {
        now.clear();
        find(me, now);
        now.for_each(|pid| {
            let _ = sys::kill(pid, libc::SIGSTOP);
        });
        quiet = if now.is_within(before) { quiet + 1 } else { 0 };
        if quiet == 2 {
            return;
        }
        std::mem::swap(now, before);
    }
}

/// Finds all living descendants. Walks `/proc` until a walk adds nobody: a child can have a lower
/// number than its parent.
fn find(me: i32, found: &mut Pids) {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let Ok(proc) = sys::openat(libc::AT_FDCWD, c"/proc", flags, 0) else {
        return;
    };
    let mut grew = true;
    while grew {
        grew = false;
        for_each_entry(proc, |name| {
            let Some(pid) = number(name.to_bytes()) else {
                return;
            };
            if !found.has(pid)
                && let Some(parent) = parent_of(proc, name)
                && (parent == me || found.has(parent))
            {
                grew |= found.insert(pid);
            }
        });
        // SAFETY: takes no pointers.
        let rewound = unsafe { sys::call(libc::SYS_lseek, [signed(proc), 0, 0]) };
        if rewound.is_err() {
            break;
        }
    }
    sys::close(proc);
}

fn number(digits: &[u8]) -> Option<i32> {
    let number = digits.iter().try_fold(0_i32, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(i32::from(digit))
    });
    number.filter(|number| *number > 0)
}

/// The parent of a process of which at least one thread lives.
fn parent_of(proc: RawFd, pid: &CStr) -> Option<i32> {
    let mut path = [0_u8; 24];
    let digits = pid.to_bytes();
    path.get_mut(..digits.len())?.copy_from_slice(digits);
    path.get_mut(digits.len()..digits.len() + 5)?
        .copy_from_slice(b"/stat");
    let path = CStr::from_bytes_until_nul(&path).ok()?;
    let mut buffer = [0_u8; 512];
    parent_in(sys::read_file(proc, path, &mut buffer).ok()?)
}

/// "number (name) state parent ...", where the name is the program's choice and may contain
/// anything, but is the only field in parentheses.
fn parent_in(stat: &[u8]) -> Option<i32> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = stat.get(end + 1..)?.split(|byte| *byte == b' ').skip(1);
    let state = fields.next()?;
    let parent = number(fields.next()?)?;
    // The state is that of the first thread, which the others can outlive.
    let is_alive = state != b"Z" || number(fields.nth(THREADS)?)? > 1;
    is_alive.then_some(parent)
}

/// A set of process numbers.
struct Pids {
    words: &'static mut [u64],
    /// No number at or above this is in the set.
    end: usize,
}

impl Pids {
    fn new() -> Option<Self> {
        let bytes = PIDS / 8;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let args = [0, bytes, signed(protection), signed(flags), signed(-1), 0];
        // SAFETY: asks for fresh memory of its own.
        let start = unsafe { sys::call(libc::SYS_mmap, args) };
        let start = start.unwrap_or(0) as *mut u64;
        if start.is_null() {
            return None;
        }
        // SAFETY: the mapping is page-aligned, zeroed, `bytes` long, this set's alone, and lives
        // as long as the supervisor.
        let words = unsafe { std::slice::from_raw_parts_mut(start, bytes / 8) };
        Some(Self { words, end: 0 })
    }

    fn insert(&mut self, pid: i32) -> bool {
        let Ok(pid) = usize::try_from(pid) else {
            return false;
        };
        let Some(word) = self.words.get_mut(pid / 64) else {
            return false;
        };
        *word |= 1 << (pid % 64);
        self.end = self.end.max(pid + 1);
        true
    }

    fn has(&self, pid: i32) -> bool {
        usize::try_from(pid)
            .ok()
            .and_then(|pid| {
                self.words
                    .get(pid / 64)
                    .map(|word| word >> (pid % 64) & 1 == 1)
            })
            .unwrap_or(false)
    }

    fn used(&self) -> &[u64] {
        self.words.get(..self.end.div_ceil(64)).unwrap_or_default()
    }

    fn clear(&mut self) {
        let used = self.end.div_ceil(64);
        self.words.get_mut(..used).unwrap_or_default().fill(0);
        self.end = 0;
    }

    fn is_within(&self, other: &Self) -> bool {
        self.used()
            .iter()
            .zip(other.words.iter())
            .all(|(mine, theirs)| mine & !theirs == 0)
    }

    fn for_each(&self, mut visit: impl FnMut(i32)) {
        for (index, word) in self
            .used()
            .iter()
            .enumerate()
            .filter(|(_, word)| **word != 0)
        {
            for bit in (0..64).filter(|bit| word >> bit & 1 == 1) {
                if let Ok(pid) = i32::try_from(index * 64 + bit) {
                    visit(pid);
                }
            }
        }
    }
}

/// Kills everything in a process namespace whose process 1 this is, and reaps it.
///
/// The kernel walks all processes under the lock that `fork` needs, so nobody escapes.
pub(super) fn end_namespace(witness: &mut impl Witness) {
    match sys::kill(-1, libc::SIGKILL) {
        Ok(()) | Err(Errno(_)) => {}
    }
    while let Ok(child) = sys::reap(0) {
        if let Some((pid, status)) = child {
            witness.reaped(pid, status);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_parentheses_cannot_lie() {
        assert_eq!(parent_in(b"7 (sh) S 5 7 7"), Some(5));
        assert_eq!(parent_in(b"7 (x) S 1 ) R 5 7"), Some(5));
        let zombie = "7 (sh) Z 5 7 7 0 -1 4228108 6 0 0 0 0 0 0 0 20 0 ";
        for (threads, parent) in [("1", None), ("2", Some(5)), ("", None)] {
            let stat = format!("{zombie}{threads} 0 8 0 0");
            assert_eq!(parent_in(stat.as_bytes()), parent);
        }
        assert_eq!(parent_in(b"7 (sh) Z 5 7 7"), None);
        assert_eq!(parent_in(b"7 (sh"), None);
        assert_eq!(number(b"12x"), None);
        assert_eq!(number(b"0"), None);
    }

    #[test]
    fn sets_hold_what_was_put_in() {
        let (mut a, mut b) = (Pids::new().unwrap(), Pids::new().unwrap());
        for pid in [1, 63, 64, 4_194_303] {
            assert!(a.insert(pid));
        }
        assert!(!a.insert(4 << 20));
        assert!(a.has(64) && !a.has(65) && !a.is_within(&b));
        b.insert(1);
        assert!(b.is_within(&a));
        let mut sum = 0;
        a.for_each(|pid| sum += i64::from(pid));
        assert_eq!(sum, 1 + 63 + 64 + 4_194_303);
        a.clear();
        assert!(a.is_within(&b) && !a.has(1));
    }

    struct Seizing;

    impl Witness for Seizing {
        fn reaped(&mut self, _: i32, _: i32) {}

        fn has_strangers(&self) -> bool {
            true
        }
    }

    /// Who is seized and no descendant goes on, and is not waited for.
    #[test]
    fn strangers_are_not_waited_for() {
        use crate::init::trace::{Reach, seize};
        // SAFETY: takes no pointers.
        if unsafe { libc::geteuid() } != 0 {
            return eprintln!("SKIPPED: only root may seize who is no descendant");
        }
        let mut stranger = std::process::Command::new("sleep").arg("1000").spawn();
        let stranger = stranger.as_mut().unwrap();
        let number = i32::try_from(stranger.id()).unwrap();
        // SAFETY: the new processes make only raw system calls.
        let sweeper = unsafe { libc::fork() };
        if sweeper == 0 {
            // SAFETY: see above.
            if unsafe { libc::fork() } == 0 {
                loop {
                    // SAFETY: takes no pointers.
                    unsafe { libc::pause() };
                }
            }
            let seized = seize(number, Reach::Host);
            end_descendants(&mut Seizing);
            sys::exit(if seized.is_ok() { 7 } else { 8 });
        }
        let mut status = 0;
        // SAFETY: the call writes one int.
        let ended = unsafe { libc::waitpid(sweeper, &raw mut status, 0) };
        assert_eq!(ended, sweeper);
        assert_eq!(libc::WEXITSTATUS(status), 7);
        assert_eq!(stranger.try_wait().unwrap(), None);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
