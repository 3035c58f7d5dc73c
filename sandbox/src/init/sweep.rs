//! Ends every descendant where there is no process namespace to do it.
//!
//! The supervisor is a child subreaper, so whatever loses its parent becomes its child: every
//! process of the sandbox has a chain of parents that leads here, also a daemon with a session of
//! its own. So killing all children again and again, until none is left, ends everything. The kernel
//! lists children to their parent whatever `/proc` hides (`hidepid`); without `CONFIG_PROC_CHILDREN`
//! a wait for each number tells them.
//!
//! A program that forks without end could outrun that. So all descendants that `/proc` shows are
//! stopped first, again and again, until two walks in a row find nobody new; whoever is stopped
//! cannot fork. The limit on processes bounds the number.
//!
//! A number can be a stranger's by the time of the signal. That of a child cannot, until it is
//! reaped here; anybody else is signalled by a descriptor, after a look at who it is of.
//!
//! Nothing waits but for children that were killed.

#![expect(unsafe_code, reason = "system calls, one of which takes a structure")]

use super::descent::{self, Process, number};
use super::pids::{Memory, PIDS, Pids};
use super::remove::for_each_entry;
use crate::sys::{self, Errno, signed};
use std::os::fd::RawFd;

/// Walks that stop; a sandbox in which somebody new appears every time is killed on the run.
const WALKS: u32 = 512;
/// Times that all children are killed before everybody is stopped once more.
const ROUNDS: u32 = 256;
/// Times that nobody can be killed though somebody is left, before all is given up.
const FRUITLESS: u32 = 3;

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
    let mut visible = None;
    let mut fruitless = 0;
    // Strangers that are seized would be waited for as well. They are let go when this process ends.
    while reap_ended(witness) {
        let mut killed = 0;
        if visible.is_none() {
            visible = Visible::new();
        }
        if let Some(visible) = &mut visible {
            visible.freeze(me);
            visible.find(me);
            killed = visible.signal(libc::SIGKILL);
        }
        match end_children(witness) {
            Listed::Nobody => return,
            Listed::Left => killed = 0,
            Listed::Many => continue,
            Listed::Unknown => {
                if killed == 0 && !witness.has_strangers() {
                    killed = kill_by_waiting();
                }
                if !reap_killed(witness, killed) {
                    return;
                }
            }
        }
        fruitless = if killed == 0 { fruitless + 1 } else { 0 };
        if fruitless == FRUITLESS {
            return;
        }
    }
}

/// Reaps whoever has ended. Whether there are children.
fn reap_ended(witness: &mut impl Witness) -> bool {
    loop {
        match sys::reap(libc::WNOHANG) {
            Ok(Some((pid, status))) => witness.reaped(pid, status),
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Waits for as many as were killed, who may also be others. Whether there are children.
fn reap_killed(witness: &mut impl Witness, killed: u32) -> bool {
    for _ in 0..killed {
        match sys::reap(0) {
            Ok(Some((pid, status))) => witness.reaped(pid, status),
            Ok(None) => {}
            Err(_) => return false,
        }
    }
    true
}

/// What the kernel's list of children says in the end.
enum Listed {
    /// It cannot be had.
    Unknown,
    Nobody,
    /// Some, none of whom can be killed.
    Left,
    /// New ones every time.
    Many,
}

/// Kills all children and those who become children by that.
fn end_children(witness: &mut impl Witness) -> Listed {
    for round in 0..ROUNDS {
        let (mut listed, mut killed) = (0_u32, 0_u32);
        let read = for_each_child(|pid| {
            listed = listed.saturating_add(1);
            if sys::kill(pid, libc::SIGKILL).is_ok() {
                killed = killed.saturating_add(1);
            }
        });
        match (read, listed, killed) {
            (None, ..) if round == 0 => return Listed::Unknown,
            (None, ..) => return Listed::Many,
            (_, 0, _) => return Listed::Nobody,
            (_, _, 0) => return Listed::Left,
            _ if !reap_killed(witness, killed) => return Listed::Nobody,
            _ => {}
        }
    }
    Listed::Many
}

/// Shows the number of each child, also of those that `/proc` hides. `None`: the kernel does not list
/// them all.
fn for_each_child(mut show: impl FnMut(i32)) -> Option<()> {
    // This process has one thread, whose children are all.
    let path = c"/proc/thread-self/children";
    let file = sys::openat(libc::AT_FDCWD, path, libc::O_RDONLY, 0).ok()?;
    let (mut digits, mut len) = ([0_u8; 12], 0_usize);
    let read = loop {
        let mut buffer = [0_u8; 1024];
        let read = match sys::read(file, &mut buffer) {
            Ok(0) => break Some(()),
            Ok(read) => read,
            Err(_) => break None,
        };
        for byte in buffer.get(..read).unwrap_or_default() {
            if byte.is_ascii_digit() {
                if let Some(slot) = digits.get_mut(len) {
                    *slot = *byte;
                    len += 1;
                }
            } else {
                let number = number(digits.get(..len).unwrap_or_default());
                number.into_iter().for_each(&mut show);
                len = 0;
            }
        }
    };
    sys::close(file);
    read
}

/// Kills whoever a wait would be for, by trying each number. How many. Nobody must be seized.
fn kill_by_waiting() -> u32 {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    let mut killed = 0_u32;
    for pid in (1..PIDS).filter_map(|pid| i32::try_from(pid).ok()) {
        let args = [libc::P_PID as usize, signed(pid), 0, signed(options), 0];
        // SAFETY: both pointers are null, so the kernel writes nothing.
        let is_child = unsafe { sys::call(libc::SYS_waitid, args) }.is_ok();
        if is_child && sys::kill(pid, libc::SIGKILL).is_ok() {
            killed = killed.saturating_add(1);
        }
    }
    killed
}

/// Descendants that `/proc` shows, and all children.
struct Visible {
    now: Pids,
    before: Pids,
    /// When those of `now` started, in the low bits; or [`CHILD`].
    starts: Memory<u32>,
}

/// In the place of a start: a child of this process's own.
const CHILD: u32 = u32::MAX;

fn short(start: u64) -> u32 {
    // So many ticks are more than half a year.
    u32::try_from(start % u64::from(CHILD)).unwrap_or(0)
}

impl Visible {
    fn new() -> Option<Self> {
        Some(Self {
            now: Pids::new()?,
            before: Pids::new()?,
            starts: Memory::new(PIDS)?,
        })
    }

    /// Stops all.
    fn freeze(&mut self, me: i32) {
        self.before.clear();
        let mut quiet = 0;
        for _ in 0..WALKS {
            self.find(me);
            self.signal(libc::SIGSTOP);
            quiet = if self.now.is_within(&self.before) {
                quiet + 1
            } else {
                0
            };
            if quiet == 2 {
                return;
            }
            std::mem::swap(&mut self.now, &mut self.before);
        }
    }

    /// Finds all that live. Walks `/proc` until a walk adds nobody: a child can have a lower number
    /// than its parent.
    fn find(&mut self, me: i32) {
        self.now.clear();
        // Those that are hidden, and all if the walk cannot be made.
        let _ = for_each_child(|pid| {
            self.insert(pid, CHILD);
        });
        let Ok(proc) = descent::open_proc() else {
            return;
        };
        let mut grew = true;
        while grew {
            grew = false;
            for_each_entry(proc, |name| {
                let pid = number(name.to_bytes());
                let pid = pid.filter(|pid| !self.now.has(*pid));
                if let Some(pid) = pid
                    && let Some(process) = Process::read(proc, pid)
                    && let Some(start) = self.judge(proc, me, &process)
                {
                    grew |= self.insert(pid, start);
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

    /// What to keep of a process, if it is a descendant: the number of its parent is that of a
    /// descendant, and was no other's when it was read. Whoever has ended is waited for, if anybody,
    /// by its parent.
    fn judge(&self, proc: RawFd, me: i32, process: &Process) -> Option<u32> {
        if process.parent == me {
            return Some(CHILD);
        }
        let found = process.is_alive && self.now.has(process.parent);
        (found && self.is_still(proc, process.parent)).then(|| short(process.start))
    }

    /// Whether this number is still that of the process that was found.
    fn is_still(&self, proc: RawFd, pid: i32) -> bool {
        match self.start(pid) {
            // Nobody is reaped meanwhile.
            Some(CHILD) => true,
            Some(start) => {
                Process::read(proc, pid).is_some_and(|process| short(process.start) == start)
            }
            None => false,
        }
    }

    fn start(&self, pid: i32) -> Option<u32> {
        let start = usize::try_from(pid)
            .ok()
            .and_then(|pid| self.starts.0.get(pid));
        start.copied().filter(|_| self.now.has(pid))
    }

    fn insert(&mut self, pid: i32, start: u32) -> bool {
        let slot = usize::try_from(pid).ok();
        let Some(slot) = slot.and_then(|pid| self.starts.0.get_mut(pid)) else {
            return false;
        };
        *slot = start;
        self.now.insert(pid)
    }

    /// Sends all a signal. How many children can be waited for because of it.
    fn signal(&self, signal: i32) -> u32 {
        let proc = descent::open_proc();
        let mut children = 0_u32;
        self.now.for_each(|pid| {
            if self.start(pid) == Some(CHILD) {
                let sent = sys::kill(pid, signal);
                children = children.saturating_add(sent.is_ok().into());
            } else if let (Ok(proc), Ok(process)) = (proc, descent::open(pid)) {
                // Who is looked at has the number, and whoever has the descriptor had it before.
                if self.is_still(proc, pid) {
                    let _ = descent::send_signal(process, signal);
                }
                sys::close(process);
            }
        });
        if let Ok(proc) = proc {
            sys::close(proc);
        }
        children
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
    struct Nobody;

    impl Witness for Nobody {
        fn reaped(&mut self, _: i32, _: i32) {}

        fn has_strangers(&self) -> bool {
            false
        }
    }

    /// Runs this in a process of its own that has two children, and gives its exit status.
    fn with_children(act: fn() -> i32) -> i32 {
        // SAFETY: the new processes make only raw system calls.
        let sweeper = unsafe { libc::fork() };
        if sweeper == 0 {
            for _ in 0..2 {
                // SAFETY: see above.
                if unsafe { libc::fork() } == 0 {
                    loop {
                        // SAFETY: takes no pointers.
                        unsafe { libc::pause() };
                    }
                }
            }
            sys::exit(act());
        }
        let mut status = 0;
        // SAFETY: the call writes one int.
        let ended = unsafe { libc::waitpid(sweeper, &raw mut status, 0) };
        assert_eq!(ended, sweeper);
        libc::WEXITSTATUS(status)
    }

    #[test]
    fn children_are_found_by_the_list_and_by_waiting() {
        let listed = with_children(|| {
            let mut listed = 0;
            let read = for_each_child(|_| listed += 1);
            let all = match end_children(&mut Nobody) {
                Listed::Nobody => 40,
                _ => 0,
            };
            let none = sys::reap(libc::WNOHANG).is_err();
            listed + all + i32::from(none) + i32::from(read.is_some())
        });
        assert_eq!(listed, 44);
        let waited = with_children(|| {
            let killed = kill_by_waiting();
            let reaped = reap_killed(&mut Nobody, killed);
            let none = sys::reap(libc::WNOHANG).is_err();
            i32::try_from(killed).unwrap_or(0) * 10 + i32::from(reaped) + i32::from(none)
        });
        assert_eq!(waited, 22);
    }

    #[test]
    fn whoever_has_the_number_of_another_is_not_signalled() {
        let killed = with_children(|| {
            let Some(mut visible) = Visible::new() else {
                return 1;
            };
            visible.find(sys::getpid());
            let mut children = [0; 2];
            let mut slots = children.iter_mut();
            visible.now.for_each(|pid| {
                if let Some(slot) = slots.next() {
                    *slot = pid;
                }
            });
            let [one, other] = children;
            // As if they were found below a child, one of them before its number was reused.
            let Ok(proc) = descent::open_proc() else {
                return 2;
            };
            for (pid, passed) in [(one, 0), (other, 1)] {
                let Some(process) = Process::read(proc, pid) else {
                    return 3;
                };
                visible.insert(pid, short(process.start) + passed);
            }
            let waited_for = visible.signal(libc::SIGKILL);
            let Ok(Some((ended, _))) = sys::reap(0) else {
                return 4;
            };
            let goes_on = sys::reap(libc::WNOHANG) == Ok(None);
            visible.insert(other, CHILD);
            let child = visible.signal(libc::SIGKILL);
            let reaped = sys::reap(0).is_ok();
            i32::from(waited_for == 0 && ended == one && goes_on && child == 1 && reaped) * 7
        });
        assert_eq!(killed, 7);
    }
}
