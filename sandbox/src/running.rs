//! An execution under way, and its end.

#![expect(
    unsafe_code,
    reason = "receives a descriptor with a message, and waits by descriptor"
)]

use crate::costs::{tell_no_proc, tell_unmediated};
use crate::ends::Streams;
use crate::plan::Plan;
use crate::prewarm::Busy;
use crate::questions::Questions;
use crate::sys::{self, Errno};
use crate::terminal::Terminal;
use crate::wire::{Cause, Command, Event, RECORD, Reached, Summary};
use crate::{Ended, Layer, LayerState, Limits, Report, Violation, WaitError, rlimits};
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// An execution under way. Dropping it kills everything and cleans up.
#[derive(Debug)]
pub struct Running {
    /// Standard input, when it was asked for.
    pub stdin: Option<PipeWriter>,
    /// Standard output, unless there is a terminal.
    pub stdout: Option<PipeReader>,
    /// Standard error, unless there is a terminal.
    pub stderr: Option<PipeReader>,
    /// The program's terminal, when it was asked for.
    pub terminal: Option<Terminal>,
    /// What the program asks for, when it is supervised.
    pub questions: Option<Questions>,
    child: Child,
    layers: Vec<LayerState>,
    /// The pool that this is from hears of its end.
    pub(crate) busy: Option<Busy>,
}

impl Running {
    pub(crate) fn new(child: Child, streams: Streams, layers: Vec<LayerState>) -> Self {
        let Streams {
            stdin,
            stdout,
            stderr,
            terminal,
        } = streams;
        Self {
            stdin,
            stdout,
            stderr,
            terminal,
            questions: None,
            child,
            layers,
            busy: None,
        }
    }

    /// A handle that can end the execution from any thread.
    #[must_use]
    pub fn killer(&self) -> Killer {
        Killer {
            control: Arc::clone(&self.child.control),
        }
    }

    /// Tells the supervisor that what was used so far is not the program's: it waits.
    pub(crate) fn idle(&self) -> io::Result<()> {
        self.killer().send(Command::Idle)
    }

    /// The program's time begins now.
    pub(crate) fn begin(&self) -> io::Result<()> {
        let now = sys::clock(libc::CLOCK_MONOTONIC)?;
        self.killer().send(Command::Begin(now))
    }

    /// A descriptor that can be read, or is closed at its other end, once everything is dead.
    ///
    /// # Errors
    /// When there is no room for another descriptor.
    pub fn over(&self) -> io::Result<OwnedFd> {
        self.child.control.try_clone()
    }

    /// The descriptor that becomes readable when the execution has ended.
    pub(crate) fn lifeline(&self) -> std::os::fd::RawFd {
        self.child.control.as_raw_fd()
    }

    /// Waits for the end. When it returns, everything is dead and cleaned up. The streams that are
    /// still in here are closed first, so whoever wants the output takes them out and reads them
    /// before or meanwhile.
    ///
    /// # Errors
    /// [`WaitError`] when there is no report; everything has been killed then.
    pub fn wait(mut self) -> Result<Finished, WaitError> {
        (self.stdin, self.stdout, self.stderr) = (None, None, None);
        self.terminal = None;
        match self.child.event() {
            Some(Event::Ended(summary)) => {
                let workspace = self.child.received.take();
                let layers = std::mem::take(&mut self.layers);
                let plan = &self.child.plan;
                let limits = Limits {
                    file_size: rlimits::file_size(&plan.spec.limits, plan.bounded.workspace),
                    ..plan.spec.limits.clone()
                };
                let report = report(summary, &limits, layers);
                if workspace.is_none() {
                    self.child.reap();
                }
                let granted = crate::grants::in_workspace(&self.child.plan.spec.grants);
                // With a workspace on the host the supervisor stays until that is let go.
                let keeper = workspace.is_some().then_some(self.child);
                Ok(Finished {
                    report,
                    workspace,
                    granted,
                    keeper,
                })
            }
            _ => Err(WaitError::SupervisorLost {
                how: self.child.reap(),
            }),
        }
    }
}

/// The supervisor process, from the caller's side.
#[derive(Debug)]
pub(crate) struct Child {
    control: Arc<OwnedFd>,
    /// The process's descriptor, until it is reaped.
    process: Option<OwnedFd>,
    /// A descriptor that came with a message.
    pub(crate) received: Option<OwnedFd>,
    /// What the supervisor runs on: dropped after the process was reaped.
    pub(crate) plan: Box<Plan>,
}

/// Room for a control message with one descriptor.
#[repr(C, align(8))]
struct OneDescriptor([u8; 64]);

impl Child {
    pub(crate) fn new(control: OwnedFd, process: OwnedFd, plan: Box<Plan>) -> Self {
        Self {
            control: Arc::new(control),
            process: Some(process),
            received: None,
            plan,
        }
    }

    /// The next message. `None`: the supervisor is gone, or speaks nonsense.
    pub(crate) fn event(&mut self) -> Option<Event> {
        let mut record = [0_u8; RECORD];
        let mut rights = OneDescriptor([0; 64]);
        // SAFETY: all-zero bytes are a valid message header.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        let mut part = libc::iovec {
            iov_base: record.as_mut_ptr().cast(),
            iov_len: record.len(),
        };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut rights).cast();
        message.msg_controllen = sys::small_size(size_of::<OneDescriptor>());
        let len = loop {
            let flags = libc::MSG_CMSG_CLOEXEC;
            // SAFETY: the message points to two buffers of the lengths it says, which outlive it.
            let len = unsafe { libc::recvmsg(self.control.as_raw_fd(), &raw mut message, flags) };
            match usize::try_from(len) {
                Ok(len) => break len,
                Err(_) => match io::Error::last_os_error().kind() {
                    io::ErrorKind::Interrupted => {}
                    // The supervisor ended with a command unread. The kernel says so once, and
                    // before it hands over what the supervisor had sent.
                    io::ErrorKind::ConnectionReset => {}
                    _ => return None,
                },
            }
        };
        // SAFETY: the message is as the kernel left it; the macro stays within its bounds.
        let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        if !header.is_null() {
            // SAFETY: the kernel wrote a whole header there, aligned.
            let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
            if level == libc::SOL_SOCKET && kind == libc::SCM_RIGHTS {
                // SAFETY: a message of rights carries at least one descriptor, now this process's.
                let fd = unsafe { libc::CMSG_DATA(header).cast::<i32>().read_unaligned() };
                // SAFETY: the descriptor is new and nobody else's.
                self.received = Some(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        Event::from_record(record.get(..len)?)
    }

    /// Waits until the supervisor has exited, and says how.
    pub(crate) fn reap(&mut self) -> String {
        let Some(process) = self.process.take() else {
            return "was waited for before".into();
        };
        let id = process.as_raw_fd().cast_unsigned();
        loop {
            // SAFETY: all-zero bytes are a valid siginfo.
            let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
            let options = libc::WEXITED | libc::__WALL;
            // SAFETY: the call writes one siginfo, which outlives it.
            if unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, options) } == 0 {
                // SAFETY: the kernel has filled in the fields of a child's end.
                let status = unsafe { info.si_status() };
                if info.si_code == libc::CLD_EXITED {
                    return format!("exited with {status}");
                }
                // Killed by somebody else, before it could clean up.
                self.plan.on_host.remove();
                return format!("was ended by signal {status}");
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                // Somebody else in this process reaped it, or is about to.
                let mut fds = [libc::pollfd {
                    fd: process.as_raw_fd(),
                    events: libc::POLLIN,
                    revents: 0,
                }];
                while sys::poll(&mut fds, None) == Err(Errno(libc::EINTR)) {}
                return format!("cannot be waited for: {error}");
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.process.is_some() {
            // The supervisor takes it as the caller's end: it kills what still runs, removes what
            // it keeps, and exits. Other handles of the socket see its end, too.
            // SAFETY: takes no pointers.
            unsafe { libc::shutdown(self.control.as_raw_fd(), libc::SHUT_RDWR) };
            self.reap();
        }
    }
}

/// Ends an execution or sends it signals, from any thread, also while another one waits.
#[derive(Debug, Clone)]
pub struct Killer {
    control: Arc<OwnedFd>,
}

impl Killer {
    /// Kills everything and gives the end this cause. The first cause wins; after the end this
    /// has no effect.
    pub fn kill(&self, cause: Ended) {
        // It fails only when the supervisor is gone, and then there is nothing to kill.
        let _ = self.send(Command::Kill(Cause::requested(cause)));
    }

    /// Sends a signal to the program's first process.
    ///
    /// # Errors
    /// When the signal is not one, or the execution has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        if !(1..=64).contains(&signal) {
            let text = format!("{signal} is no signal; Linux has 1 to 64");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.send(Command::Signal(signal))
    }

    fn send(&self, command: Command) -> io::Result<()> {
        let record = command.to_record();
        loop {
            let control = self.control.as_raw_fd();
            // SAFETY: the call reads the record, which outlives it.
            let sent = unsafe {
                libc::send(
                    control,
                    record.as_ptr().cast(),
                    record.len(),
                    libc::MSG_NOSIGNAL,
                )
            };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

/// What is left of an execution.
#[derive(Debug)]
pub struct Finished {
    /// What happened, what it cost, and what confined it.
    pub report: Report,
    /// The workspace, when [`Spec::collect`](crate::Spec::collect) asked for it: an `O_PATH` directory descriptor, good
    /// as long as this `Finished` lives. Whatever the program left there is hostile: follow no link
    /// and trust no size.
    pub workspace: Option<OwnedFd>,
    /// Places in it that were paths of the host.
    pub(crate) granted: Vec<Vec<u8>>,
    /// The supervisor, which removes the workspace when this is dropped.
    #[expect(dead_code, reason = "held for its drop")]
    keeper: Option<Child>,
}

pub(crate) fn report(summary: Summary, limits: &Limits, mut layers: Vec<LayerState>) -> Report {
    let (ended, violation) = ended(summary, limits);
    let denied = summary.denials.iter().map(|(call, reason)| Violation {
        layer: Layer::Seccomp,
        operation: call.into(),
        target: Some(reason.into()),
    });
    if summary.unmediated != 0 {
        tell_unmediated(&mut layers, summary.unmediated);
    }
    if summary.no_proc != 0 {
        tell_no_proc(&mut layers, summary.no_proc);
    }
    Report {
        ended,
        wall: Duration::from_nanos(summary.wall_nanos),
        cpu: Duration::from_nanos(summary.cpu_nanos),
        peak_memory: summary.peak_bytes,
        layers,
        violations: violation
            .into_iter()
            .chain(reached(summary.reached, limits))
            .chain(denied)
            .collect(),
    }
}

/// Limits that were reached, for which the program was refused something and not ended.
fn reached(reached: Reached, limits: &Limits) -> impl Iterator<Item = Violation> {
    let of = |layer, operation: &str, limit: Option<u64>, what: &str| {
        limit.map(|limit| Violation {
            layer,
            operation: operation.into(),
            target: Some(format!("the limit of {limit} {what}")),
        })
    };
    let processes = reached.processes.then(|| {
        let what = "was reached, and further ones were refused";
        of(Layer::Cgroup, "processes", limits.processes, what)
    });
    let workspace = reached.workspace.then(|| {
        let what = "bytes, or of the files that fit in, was reached";
        of(Layer::MountNs, "workspace size", limits.workspace, what)
    });
    [processes, workspace].into_iter().flatten().flatten()
}

/// How far the CPU time that the kernel's limit goes by may be ahead of what is counted: it takes
/// whole seconds, and a whole tick for each one that it finds a process in.
const CPU_LIMIT_GRAIN: Duration = Duration::from_secs(1);

/// Whether a program that SIGXCPU ended had used so much CPU time that the limit on it explains
/// that. A program can send itself the signal at any time.
fn is_cpu_limit(limit: Duration, used: Duration) -> bool {
    let grain = CPU_LIMIT_GRAIN.min(limit / 2);
    used >= limit.saturating_sub(grain)
}

/// Names the end, and what was violated, as far as the wait status tells: not who sent a signal. The
/// words for a signal that a program can send itself claim no more than that.
fn ended(summary: Summary, limits: &Limits) -> (Ended, Option<Violation>) {
    let violation = |layer, operation: &str, target: Option<String>| {
        Some(Violation {
            layer,
            operation: operation.into(),
            target,
        })
    };
    match summary.cause {
        Cause::TimedOut => return (Ended::TimedOut, None),
        Cause::CpuExceeded => return (Ended::CpuExceeded, None),
        Cause::MemoryExceeded => return (Ended::MemoryExceeded, None),
        Cause::OutputExceeded => return (Ended::OutputExceeded, None),
        Cause::Killed => return (Ended::Killed, None),
        Cause::NoProcesses => {
            let target = Some("a limit of 0 leaves none for the program itself".into());
            return (
                Ended::Killed,
                violation(Layer::Rlimits, "processes", target),
            );
        }
        Cause::Leader if summary.oom_kills > 0 => return (Ended::MemoryExceeded, None),
        Cause::Leader => {}
    }
    let status = summary.status;
    if !libc::WIFSIGNALED(status) {
        let code = u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX);
        return (Ended::Exited { code }, None);
    }
    let number = libc::WTERMSIG(status);
    let signaled = Ended::Signaled {
        signal: u8::try_from(number).unwrap_or(u8::MAX),
    };
    let cpu = Duration::from_nanos(summary.cpu_nanos);
    match number {
        libc::SIGXCPU if limits.cpu.is_some_and(|limit| is_cpu_limit(limit, cpu)) => {
            (Ended::CpuExceeded, None)
        }
        libc::SIGKILL if limits.cpu.is_some_and(|limit| cpu >= limit) => (Ended::CpuExceeded, None),
        libc::SIGSYS => {
            let target = "ended by SIGSYS, with which the kernel ends a process for a system call \
                          of a foreign architecture, unless the program sent it itself";
            let target = Some(target.into());
            let violation = violation(Layer::Seccomp, "system call", target);
            (Ended::Killed, violation)
        }
        libc::SIGXFSZ if limits.file_size.is_some() => {
            let target = "ended by SIGXFSZ, with which the kernel ends a process that writes \
                          beyond the limit, unless the program sent it itself";
            let target = Some(target.into());
            (signaled, violation(Layer::Rlimits, "file size", target))
        }
        _ => (signaled, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::Denials;

    fn check(change: impl FnOnce(&mut Summary), limits: &Limits, expected: Ended) {
        let mut summary = Summary {
            cause: Cause::Leader,
            status: 0,
            wall_nanos: 5,
            cpu_nanos: 5,
            peak_bytes: 5,
            oom_kills: 0,
            unmediated: 0,
            no_proc: 0,
            denials: Denials::default(),
            reached: Reached::default(),
        };
        change(&mut summary);
        assert_eq!(ended(summary, limits).0, expected);
    }

    #[test]
    fn the_end_is_named() {
        let limits = Limits::default();
        check(|_| {}, &limits, Ended::Exited { code: 0 });
        check(
            |summary| summary.status = 3 << 8,
            &limits,
            Ended::Exited { code: 3 },
        );
        check(
            |summary| summary.status = 9,
            &limits,
            Ended::Signaled { signal: 9 },
        );
        check(
            |summary| summary.status = libc::SIGSYS,
            &limits,
            Ended::Killed,
        );
        check(
            |summary| summary.oom_kills = 1,
            &limits,
            Ended::MemoryExceeded,
        );
        check(
            |summary| summary.cause = Cause::TimedOut,
            &limits,
            Ended::TimedOut,
        );
        let signal = |signal| Ended::Signaled { signal };
        check(
            |summary| summary.status = libc::SIGXCPU,
            &limits,
            signal(24),
        );
        let limits = Limits {
            cpu: Some(Duration::from_nanos(5)),
            ..limits
        };
        check(
            |summary| summary.status = libc::SIGXCPU,
            &limits,
            Ended::CpuExceeded,
        );
        check(|summary| summary.status = 9, &limits, Ended::CpuExceeded);
    }

    fn summary(signal: i32, cpu: Duration) -> Summary {
        Summary {
            cause: Cause::Leader,
            status: signal,
            wall_nanos: 1,
            cpu_nanos: cpu.as_nanos().try_into().unwrap(),
            peak_bytes: 1,
            oom_kills: 0,
            unmediated: 0,
            no_proc: 0,
            denials: Denials::default(),
            reached: Reached::default(),
        }
    }

    #[test]
    fn a_signal_alone_is_no_cpu_limit() {
        let millis = Duration::from_millis;
        let limited = |limit| Limits {
            cpu: Some(limit),
            ..Limits::default()
        };
        let signal = Ended::Signaled { signal: 24 };
        for (limit, used, expected) in [
            (millis(10_000), millis(1), signal),
            (millis(10_000), millis(8_900), signal),
            (millis(10_000), millis(9_500), Ended::CpuExceeded),
            (millis(1_000), millis(1), signal),
            (millis(1_000), millis(600), Ended::CpuExceeded),
            (millis(1_500), millis(2_000), Ended::CpuExceeded),
            (Duration::MAX, millis(2_000), signal),
        ] {
            let (ended, violation) = ended(summary(libc::SIGXCPU, used), &limited(limit));
            assert_eq!(ended, expected, "{used:?} of {limit:?}");
            assert_eq!(violation, None);
        }
    }

    #[test]
    fn signals_are_no_proof_of_a_violation() {
        let limits = Limits::default();
        let (end, violation) = ended(summary(libc::SIGSYS, Duration::ZERO), &limits);
        let violation = violation.unwrap();
        assert_eq!(end, Ended::Killed);
        assert_eq!(violation.operation, "system call");
        assert!(violation.target.unwrap().starts_with("ended by SIGSYS"));

        let signal = Ended::Signaled { signal: 25 };
        let unlimited = ended(summary(libc::SIGXFSZ, Duration::ZERO), &limits);
        assert_eq!(unlimited, (signal, None));
        let limits = Limits {
            file_size: Some(0),
            ..limits
        };
        let (end, violation) = ended(summary(libc::SIGXFSZ, Duration::ZERO), &limits);
        let violation = violation.unwrap();
        assert_eq!((end, violation.operation.as_str()), (signal, "file size"));
        assert!(violation.target.unwrap().starts_with("ended by SIGXFSZ"));
    }
}
