//! A child process that cannot outlive this one, and the thread that looks after it.
//!
//! The thread starts the process, reads what it prints, and reaps it. On Linux it is also the
//! process's parent in the eyes of the kernel, which kills the process when that thread ends
//! (`PR_SET_PDEATHSIG` follows the thread, not the process): so it lives exactly as long. Elsewhere
//! the process has to notice by itself, as a worker does when its control socket ends.

#![expect(
    unsafe_code,
    reason = "pre_exec: what must happen between fork and exec"
)]

use super::Exit;
use super::console::Tail;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes of the console that are kept.
const CONSOLE: usize = 64 << 10;
/// Bytes of error messages that are kept.
const STDERR: usize = 16 << 10;

/// Files that get a copy of the beginning of what a process prints.
#[derive(Debug, Default)]
pub(super) struct Logs {
    pub(super) console: Option<File>,
    pub(super) errors: Option<File>,
}

/// A running process, killed when this is dropped.
#[derive(Debug)]
pub(super) struct Process {
    shared: Arc<Shared>,
    pid: Pid,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    console: Tail,
    stderr: Tail,
    outcome: Mutex<Outcome>,
    /// Signalled when `outcome` has an exit.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Outcome {
    stopped: bool,
    exit: Option<Exit>,
}

impl Shared {
    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        lock(&self.outcome)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    /// Starts `command`, whose standard input is set, with its standard output as the console. The
    /// `inherited` descriptors keep their numbers in the process and are closed here. Once the
    /// process has ended and [`exit`](Self::exit) says so, `after` is called.
    pub(super) fn spawn(
        command: Command,
        inherited: Vec<OwnedFd>,
        logs: Logs,
        after: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            console: Tail::new(CONSOLE, logs.console),
            stderr: Tail::new(STDERR, logs.errors),
            outcome: Mutex::default(),
            ended: Condvar::new(),
        });
        let (started, start) = sync_channel(1);
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("vm-process".into())
            .spawn(move || supervise(&theirs, command, inherited, &started, after))?;
        match start.recv() {
            Ok(Ok(pid)) => Ok(Self {
                shared,
                pid,
                thread: Mutex::new(Some(thread)),
            }),
            Ok(Err(error)) => {
                let _ = thread.join();
                Err(error)
            }
            Err(_) => Err(io::Error::other("the supervising thread ended at once")),
        }
    }

    /// Kills the process and returns when it is gone and `after` has returned.
    pub(super) fn stop(&self) {
        {
            let mut outcome = self.shared.outcome();
            if outcome.exit.is_none() {
                outcome.stopped = true;
                // It is not reaped while this lock is held, so the number is still its own.
                let _ = kill_process(self.pid, Signal::KILL);
            }
        }
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }

    pub(super) fn exit(&self) -> Option<Exit> {
        self.shared.outcome().exit.clone()
    }

    /// As [`exit`](Self::exit), but waits for the end that is expected to come.
    pub(super) fn exit_within(&self, patience: Duration) -> Option<Exit> {
        let waited =
            self.shared
                .ended
                .wait_timeout_while(self.shared.outcome(), patience, |outcome| {
                    outcome.exit.is_none()
                });
        let (outcome, _) = waited.unwrap_or_else(PoisonError::into_inner);
        outcome.exit.clone()
    }

    /// How the process ended. Whoever asks knows that it has.
    pub(super) fn outcome(&self) -> Exit {
        self.exit().unwrap_or_else(|| Exit {
            status: None,
            stopped: false,
            stderr: String::new(),
            console: self.console(),
        })
    }

    pub(super) fn console(&self) -> String {
        self.shared.console.text()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

fn supervise(
    shared: &Shared,
    mut command: Command,
    inherited: Vec<OwnedFd>,
    started: &SyncSender<io::Result<Pid>>,
    after: impl FnOnce(),
) {
    let (mut child, pid) = match start(&mut command, &inherited) {
        Ok(child) => child,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    // What only the process is to hold.
    drop((command, inherited));
    let _ = started.send(Ok(pid));
    read_until_closed(shared, &mut child);
    // Ended, but not reaped: its number is not given to anybody else before the lock is held.
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while matches!(waitid(WaitId::Pid(pid), ended), Err(Errno::INTR)) {}
    let mut outcome = shared.outcome();
    let status = child.wait().ok();
    outcome.exit = Some(Exit {
        status,
        stopped: outcome.stopped,
        stderr: shared.stderr.text(),
        console: shared.console.text(),
    });
    drop(outcome);
    shared.ended.notify_all();
    after();
}

fn start(command: &mut Command, inherited: &[OwnedFd]) -> io::Result<(Child, Pid)> {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // The terminal's Ctrl-C is for this process, which then ends that one in order.
        .process_group(0);
    #[cfg(target_os = "linux")]
    let parent = rustix::process::getpid();
    let keep: Vec<i32> = inherited.iter().map(AsRawFd::as_raw_fd).collect();
    let prepare = move || {
        #[cfg(target_os = "linux")]
        tie_to(parent)?;
        for &fd in &keep {
            // SAFETY: `supervise` holds the descriptors open until after the spawn, and the
            // child has a copy of each.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe things may be done. `prepare` makes
    // a few system calls and reads memory that was allocated before.
    unsafe { command.pre_exec(prepare) };
    let mut child = command.spawn()?;
    match i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        Some(pid) => Ok((child, pid)),
        None => {
            let _ = child.kill();
            let _ = child.wait();
            Err(Errno::SRCH.into())
        }
    }
}

/// In the child: dies with the parent's thread, and closes what the application has open.
#[cfg(target_os = "linux")]
fn tie_to(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before the line above.
    if rustix::process::getppid() != Some(parent) {
        return Err(Errno::SRCH.into());
    }
    // Whatever the application has open is not for a guest's process. Without the call (before
    // Linux 5.11) only what was opened without close-on-exec would get there.
    // SAFETY: a system call with three integers, which opens and closes nothing.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    Ok(())
}

/// Reads both pipes until the process, which has no children, has closed them.
fn read_until_closed(shared: &Shared, child: &mut Child) {
    let mut stdout = child
        .stdout
        .take()
        .map(|pipe| File::from(OwnedFd::from(pipe)));
    let mut stderr = child
        .stderr
        .take()
        .map(|pipe| File::from(OwnedFd::from(pipe)));
    for pipe in [&stdout, &stderr].into_iter().flatten() {
        // While one is drained, the other's silence must not be waited for.
        let _ = rustix::io::ioctl_fionbio(pipe, true);
    }
    while stdout.is_some() || stderr.is_some() {
        {
            let mut waits: Vec<_> = [&stdout, &stderr]
                .into_iter()
                .flatten()
                .map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN))
                .collect();
            match poll(&mut waits, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                // Nothing to read with; `wait` still waits.
                Err(_) => return,
            }
        }
        drain(&mut stdout, &shared.console);
        drain(&mut stderr, &shared.stderr);
    }
}

/// Reads what is there now. At the end, or on an error, the pipe is closed.
fn drain(pipe: &mut Option<File>, tail: &Tail) {
    let mut buffer = [0; 8 << 10];
    // Bounded, so that a process that prints without end does not keep its own end from being seen.
    for _ in 0..64 {
        let Some(file) = pipe else { return };
        match file.read(&mut buffer) {
            Ok(0) => *pipe = None,
            Ok(len) => tail.push(buffer.get(..len).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => *pipe = None,
        }
    }
}
