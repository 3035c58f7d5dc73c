//! A child process that cannot outlive this one, and the thread that looks after it.
//!
//! The thread starts the process, reads what it prints, and reaps it. It is also the process's
//! parent in the eyes of the kernel, which kills the process when that thread ends
//! (`PR_SET_PDEATHSIG` follows the thread, not the process): so it lives exactly as long.

#![expect(
    unsafe_code,
    reason = "pre_exec: what must happen between fork and exec"
)]

use super::Exit;
use super::console::Tail;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal,
};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Bytes of the console that are kept.
const CONSOLE: usize = 64 << 10;
/// Bytes of error messages that are kept.
const STDERR: usize = 16 << 10;

/// A running process, killed when this is dropped.
#[derive(Debug)]
pub(super) struct Process {
    shared: Arc<Shared>,
    pidfd: OwnedFd,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    console: Tail,
    stderr: Tail,
    outcome: Mutex<Outcome>,
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
    /// Starts `command` with its standard output as the console. `inherited` descriptors keep their
    /// numbers in the process and are closed here. Once the process has ended and
    /// [`exit`](Self::exit) says so, `after` is called.
    pub(super) fn spawn(
        command: Command,
        inherited: Vec<OwnedFd>,
        console_log: Option<File>,
        after: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            console: Tail::new(CONSOLE, console_log),
            stderr: Tail::new(STDERR, None),
            outcome: Mutex::default(),
        });
        let (started, start) = sync_channel(1);
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("vm-process".into())
            .spawn(move || supervise(&theirs, command, inherited, &started, after))?;
        match start.recv() {
            Ok(Ok(pidfd)) => Ok(Self {
                shared,
                pidfd,
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
                // It may have ended already.
                let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
            }
        }
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }

    pub(super) fn exit(&self) -> Option<Exit> {
        self.shared.outcome().exit.clone()
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
    started: &SyncSender<io::Result<OwnedFd>>,
    after: impl FnOnce(),
) {
    let (mut child, pidfd) = match start(&mut command, &inherited) {
        Ok(started) => started,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    drop(inherited);
    match pidfd.try_clone() {
        Ok(theirs) => drop(started.send(Ok(theirs))),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            let _ = started.send(Err(error));
            return;
        }
    }
    read_until_exit(shared, &mut child, &pidfd);
    let status = child.wait().ok();
    let mut outcome = shared.outcome();
    outcome.exit = Some(Exit {
        status,
        stopped: outcome.stopped,
        stderr: shared.stderr.text(),
        console: shared.console.text(),
    });
    drop(outcome);
    after();
}

fn start(command: &mut Command, inherited: &[OwnedFd]) -> io::Result<(Child, OwnedFd)> {
    let parent = getpid();
    let keep: Vec<i32> = inherited.iter().map(AsRawFd::as_raw_fd).collect();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // The terminal's Ctrl-C is for this process, which then ends that one in order.
        .process_group(0);
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above.
        if getppid() != Some(parent) {
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
        for &fd in &keep {
            // SAFETY: `supervise` holds the descriptors open until after the spawn, and the
            // child has a copy of each.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe things may be done. `prepare` makes
    // five kinds of system calls and reads memory that was allocated before.
    unsafe { command.pre_exec(prepare) };
    let mut child = command.spawn()?;
    let pidfd = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0))
        .ok_or(Errno::SRCH)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
    match pidfd {
        Ok(pidfd) => Ok((child, pidfd)),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error.into())
        }
    }
}

/// Reads both pipes until the process has ended, and then what is left in them.
fn read_until_exit(shared: &Shared, child: &mut Child, pidfd: &OwnedFd) {
    let mut stdout = child
        .stdout
        .take()
        .map(|pipe| File::from(OwnedFd::from(pipe)));
    let mut stderr = child
        .stderr
        .take()
        .map(|pipe| File::from(OwnedFd::from(pipe)));
    for pipe in [&stdout, &stderr].into_iter().flatten() {
        // Should something else hold the other end, its silence must not be waited for.
        let _ = rustix::io::ioctl_fionbio(pipe, true);
    }
    loop {
        let mut ended = false;
        {
            let mut waits = vec![PollFd::new(pidfd, PollFlags::IN)];
            for pipe in [&stdout, &stderr].into_iter().flatten() {
                waits.push(PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN));
            }
            match poll(&mut waits, None) {
                Ok(_) => ended |= waits.first().is_some_and(|wait| !wait.revents().is_empty()),
                Err(Errno::INTR) => continue,
                // Nothing to read with; `wait` still waits.
                Err(_) => return,
            }
        }
        drain(&mut stdout, &shared.console);
        drain(&mut stderr, &shared.stderr);
        if ended {
            return;
        }
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
