//! Starts the program, waits for its end or a reason to end it, and reports.
//!
//! Waiting is one `ppoll` on five descriptors, until the next moment at which a limit can be
//! reached: the socket to the caller, the caller's process, a signal descriptor for children, the
//! listener of what the supervisor does on the program's behalf, and the socket for questions.

#![expect(
    unsafe_code,
    reason = "system calls that take structures, and a process that shares memory"
)]

use super::notify::{Channel, Notifier, Verdict};
use super::trace::Stop;
use super::{Ready, at, clock, program, send, sweep};
use crate::clone;
use crate::plan::Plan;
use crate::seccomp::Denials;
use crate::sys::{self, CloneArgs, Errno, signed};
use crate::wire::{Cause, Command, Event, Failure, RECORD, Reached, Step, Summary};
use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::os::fd::{AsRawFd, RawFd};

const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Between two looks at the CPU time, however little is left of it.
const CPU_GRAIN: u64 = 2_000_000;

/// Children that are reaped per look at the limits.
const REAPED: u32 = 64;

/// Runs the program to its end.
pub(super) fn run(plan: &Plan, ready: &Ready) -> ! {
    let control = plan.fds.control;
    let mut state = State {
        leader: -1,
        clock: None,
        status: None,
        begin: now(),
        begun: !plan.waits,
        used_before: 0,
        unmediated: 0,
        no_proc: ready.no_proc,
        denials: Denials::default(),
        is_behind: false,
    };
    let cause = if let Some(cause) = plan.spent {
        let _ = send(control, &Event::Started.to_record(), None);
        end_all(plan, &mut state, None);
        Some(cause)
    } else {
        if plan.cpu.is_some() && plan.on_host.cgroup.is_none() {
            state.clock = clock::open().ok();
        }
        match start(plan, ready) {
            Ok((leader, signals, mut notifier)) => {
                state.leader = leader;
                state.unmediated = notifier.unmediated();
                let _ = send(control, &Event::Started.to_record(), ready.terminal);
                ready.terminal.into_iter().for_each(sys::close);
                let cause = watch(plan, &mut state, signals, &mut notifier);
                notifier.end();
                state.denials = notifier.denials();
                end_all(plan, &mut state, Some(&mut notifier));
                cause
            }
            Err(failure) => {
                end_all(plan, &mut state, None);
                plan.on_host.remove();
                let _ = send(control, &Event::Failed(failure).to_record(), None);
                sys::exit(1)
            }
        }
    };
    let Some(cause) = cause else {
        // The caller is gone: nobody to report to.
        plan.on_host.remove();
        sys::exit(0)
    };
    let summary = summary(plan, ready, &state, cause);
    report(plan, ready, summary)
}

/// Tells the caller the end, after everything is cleaned up but what the caller wants to see.
fn report(plan: &Plan, ready: &Ready, summary: Summary) -> ! {
    let control = plan.fds.control;
    let record = Event::Ended(summary).to_record();
    let keep_directory = plan.collect && plan.on_host.directory.is_some();
    if !keep_directory {
        plan.on_host.remove();
    }
    let _ = send(control, &record, plan.collect.then_some(ready.workspace));
    if keep_directory {
        // The workspace is a directory of the host: it stays until the caller lets go.
        let mut fds = [interest(control), interest(plan.fds.caller)];
        loop {
            match sys::poll(&mut fds, None) {
                Err(Errno(libc::EINTR)) => {}
                Ok(_) if fds[1].revents == 0 && receive(control) != Received::Gone => {}
                _ => break,
            }
        }
        plan.on_host.remove();
    }
    sys::exit(0)
}

/// The program's first process, and its wait status once it has ended.
struct State {
    leader: i32,
    /// What counts the CPU time of all, where there is a limit on it.
    clock: Option<RawFd>,
    status: Option<i32>,
    /// From when on time counts.
    begin: u64,
    /// The time limits are in force.
    begun: bool,
    /// Nanoseconds of CPU time that do not count.
    used_before: u64,
    /// Why the kernel gave no notifications, 0 if it did or need not.
    unmediated: i32,
    /// Why a private root has no `/proc`, 0 if it has one or there is none.
    no_proc: i32,
    denials: Denials,
    /// More children may have ended than were reaped.
    is_behind: bool,
}

impl State {
    /// The moment at which the program's time is over.
    fn deadline(&self, plan: &Plan) -> Option<u64> {
        let wall = plan.wall.filter(|_| self.begun)?;
        Some(self.begin.saturating_add(wall))
    }

    /// CPU time so far, as far as it counts.
    fn used(&self, plan: &Plan) -> u64 {
        cpu_time(plan, self).saturating_sub(self.used_before)
    }

    /// Takes a command about when time begins to count. Each has its effect once.
    fn time(&mut self, plan: &Plan, command: Command) {
        match command {
            Command::Idle if !self.begun => self.used_before = cpu_time(plan, self),
            Command::Begin(time) if !self.begun => {
                self.begun = true;
                // The caller's clock is this one; a time to come would be no limit.
                self.begin = time.min(now()).max(self.begin);
            }
            _ => {}
        }
    }

    /// Takes what a wait told. A thread that only stopped is of no interest here.
    fn reaped(&mut self, pid: i32, status: i32) {
        if pid == self.leader && Stop::from_status(status).is_none() {
            self.status = Some(status);
        }
    }

    /// Sends a signal to the first process, as long as it lives.
    fn signal(&self, signal: i32) {
        if self.status.is_none() {
            let _ = sys::kill(self.leader, signal);
        }
    }
}

fn now() -> u64 {
    sys::clock(libc::CLOCK_MONOTONIC).unwrap_or(0)
}

/// Starts the program. Returns its process, the signal descriptor and the listener once it has
/// executed.
fn start<'p>(plan: &'p Plan, ready: &Ready) -> Result<(i32, RawFd, Notifier<'p>), Failure> {
    let signals = child_signals().map_err(at(Step::Signals))?;
    let channel = Channel::new().map_err(at(Step::Fork))?;
    let mut args = CloneArgs {
        // This process goes on when the program has executed or ended.
        flags: libc::CLONE_VFORK.cast_unsigned().into(),
        exit_signal: libc::SIGCHLD.cast_unsigned().into(),
        ..CloneArgs::default()
    };
    if let Some(group) = &plan.on_host.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = group.directory.as_raw_fd().cast_unsigned().into();
    }
    // What the program will see as its parent.
    let parent = if plan.has_namespace(libc::CLONE_NEWPID) {
        1
    } else {
        sys::getpid()
    };
    let failure = Cell::new(None);
    let start = Start {
        plan,
        ready,
        parent,
        channel: &channel,
        failure: &failure,
    };
    // SAFETY: by CLONE_VFORK this process only goes on when the new one has executed or ended, and
    // so has its use of `start` and of the plan's stack. All signals are blocked. The new process
    // makes only raw system calls.
    let leader = unsafe {
        let start = (&raw const start).cast();
        clone::clone(args, &plan.program_stack, program_process, start)
    };
    let leader = leader.map_err(at(Step::Fork))?;
    if let Some(failure) = failure.take() {
        return Err(failure);
    }
    let notifier = Notifier::new(plan, ready.user, &channel).map_err(at(Step::Seccomp))?;
    // The streams end when the program's processes have closed them; a terminal, which they can
    // open again, with the last process.
    let kept = usize::from(plan.terminal);
    let streams = [plan.fds.stdin, plan.fds.stdout, plan.fds.stderr];
    streams.into_iter().skip(kept).for_each(sys::close);
    Ok((leader, signals, notifier))
}

/// A descriptor that is readable when a child has ended. All signals are blocked already.
///
/// The caller may ignore the signal, or have it sent for ends alone.
fn child_signals() -> sys::Sys<RawFd> {
    sys::default_action(libc::SIGCHLD)?;
    let set: u64 = 1 << (libc::SIGCHLD - 1);
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    let args = [
        signed(-1),
        &raw const set as usize,
        size_of::<u64>(),
        signed(flags),
    ];
    // SAFETY: the kernel reads one 8-byte set, which outlives the call.
    let fd = unsafe { sys::call(libc::SYS_signalfd4, args) }?;
    RawFd::try_from(fd).map_err(|_range| Errno(libc::EBADF))
}

/// What the program's process gets.
struct Start<'a> {
    plan: &'a Plan,
    ready: &'a Ready,
    parent: i32,
    channel: &'a Channel,
    /// Why it did not execute.
    failure: &'a Cell<Option<Failure>>,
}

/// The program's process until it executes.
extern "C" fn program_process(start: *const c_void) -> ! {
    // SAFETY: the supervisor passes a `Start` and waits, so that it stays and nobody else uses it.
    let start = unsafe { &*start.cast::<Start<'_>>() };
    let failure = program::become_program(start.plan, start.ready, start.parent, start.channel);
    start.failure.set(Some(failure));
    sys::exit(127)
}

const fn interest(fd: RawFd) -> libc::pollfd {
    libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    }
}

/// No sooner can this rest of the CPU time be used up, on all processors at once.
fn cpu_pause(plan: &Plan, left: u64) -> u64 {
    let pause = left.checked_div(plan.processors);
    pause.unwrap_or(left).max(CPU_GRAIN)
}

/// The earlier one of two moments, of which each may never come.
fn earlier(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

/// No limit is reached before this moment, if ever. An error: one is reached.
fn next_limit(plan: &Plan, state: &State, time: u64) -> Result<Option<u64>, Cause> {
    let deadline = state.deadline(plan);
    if deadline.is_some_and(|deadline| time >= deadline) {
        return Err(Cause::TimedOut);
    }
    let Some(limit) = plan.cpu.filter(|_| state.begun) else {
        return Ok(deadline);
    };
    let left = limit.saturating_sub(state.used(plan));
    if left == 0 {
        return Err(Cause::CpuExceeded);
    }
    let pause = cpu_pause(plan, left);
    Ok(earlier(deadline, Some(time.saturating_add(pause))))
}

/// Waits for the end or a reason for it. `None`: the caller is gone.
fn watch(
    plan: &Plan,
    state: &mut State,
    signals: RawFd,
    notifier: &mut Notifier<'_>,
) -> Option<Cause> {
    let control = plan.fds.control;
    let mut fds = [
        interest(control),
        interest(plan.fds.caller),
        interest(signals),
        interest(-1),
        interest(-1),
    ];
    loop {
        let time = now();
        let mut wake = match next_limit(plan, state, time) {
            Ok(wake) => wake,
            Err(reached) => return Some(reached),
        };
        let [listener, questions] = notifier.descriptors();
        (fds[3].fd, fds[4].fd) = (listener, questions);
        wake = earlier(wake, notifier.wake());
        if state.is_behind {
            wake = Some(time);
        }
        match sys::poll(&mut fds, wake.map(|wake| wake.saturating_sub(time))) {
            Ok(_) => {}
            Err(Errno(libc::EINTR)) => continue,
            Err(_) => return Some(Cause::Killed),
        }
        let changed = fds[2].revents != 0 || state.is_behind;
        if changed && reap_ended(signals, state, notifier) == Verdict::KillAll {
            return Some(Cause::Killed);
        }
        if fds[1].revents != 0 {
            return None;
        }
        if notifier.serve([fds[3].revents, fds[4].revents], now()) == Verdict::KillAll {
            return Some(Cause::Killed);
        }
        if fds[0].revents != 0 {
            match receive(control) {
                Received::Gone => return None,
                Received::Command(Command::Kill(cause)) => return Some(cause),
                Received::Command(Command::Signal(signal)) => state.signal(signal),
                Received::Command(command) => state.time(plan, command),
                Received::Nothing => {}
            }
        }
        if state.status.is_some() {
            let late = state
                .deadline(plan)
                .is_some_and(|deadline| now() >= deadline);
            return Some(if late { Cause::TimedOut } else { Cause::Leader });
        }
    }
}

/// Reaps children that the signal descriptor told of, and looks at what was executed.
fn reap_ended(signals: RawFd, state: &mut State, notifier: &mut Notifier<'_>) -> Verdict {
    let mut buffer = [0; 512];
    // One signal stands for all of them, and is gone when it is read.
    while sys::read(signals, &mut buffer).is_ok_and(|count| count > 0) {}
    state.is_behind = false;
    for _ in 0..REAPED {
        let Ok(Some((pid, status))) = sys::reap(libc::WNOHANG) else {
            return Verdict::GoOn;
        };
        state.reaped(pid, status);
        if notifier.changed(pid, Stop::from_status(status)) == Verdict::KillAll {
            return Verdict::KillAll;
        }
    }
    state.is_behind = true;
    Verdict::GoOn
}

#[derive(PartialEq, Eq)]
enum Received {
    Gone,
    Nothing,
    Command(Command),
}

fn receive(control: RawFd) -> Received {
    let mut record = [0_u8; RECORD];
    let args = [
        signed(control),
        record.as_mut_ptr() as usize,
        record.len(),
        signed(libc::MSG_DONTWAIT),
        0,
        0,
    ];
    // SAFETY: the kernel writes at most `len` bytes to the record.
    match unsafe { sys::call(libc::SYS_recvfrom, args) } {
        Ok(0) => Received::Gone,
        Ok(len) => record
            .get(..len)
            .and_then(Command::from_record)
            .map_or(Received::Nothing, Received::Command),
        Err(Errno(libc::EAGAIN | libc::EINTR)) => Received::Nothing,
        Err(_) => Received::Gone,
    }
}

/// Who learns what ended while everything is killed.
struct Ending<'s, 'p> {
    state: &'s mut State,
    notifier: Option<&'s mut Notifier<'p>>,
}

impl sweep::Witness for Ending<'_, '_> {
    fn reaped(&mut self, pid: i32, status: i32) {
        self.state.reaped(pid, status);
        if let Some(notifier) = &mut self.notifier {
            notifier.finish(pid, Stop::from_status(status));
        }
    }

    fn has_strangers(&self) -> bool {
        let notifier = self.notifier.as_deref();
        notifier.is_some_and(Notifier::has_strangers)
    }
}

/// Kills and reaps everything that the program left.
fn end_all(plan: &Plan, state: &mut State, notifier: Option<&mut Notifier<'_>>) {
    end_processes(plan, &mut Ending { state, notifier });
    if plan.terminal {
        sys::close(plan.fds.stdin);
    }
}

fn end_processes(plan: &Plan, ending: &mut Ending<'_, '_>) {
    if let Some(group) = &plan.on_host.cgroup {
        // Since Linux 5.14; what it misses is found below.
        let _ = sys::write_file(group.directory.as_raw_fd(), c"cgroup.kill", b"1");
    }
    if plan.has_namespace(libc::CLONE_NEWPID) {
        sweep::end_namespace(ending);
    } else {
        sweep::end_descendants(ending);
    }
}

/// Nanoseconds of CPU time so far: of the control group, or else what the counter or the processes
/// tell, whichever is more.
fn cpu_time(plan: &Plan, state: &State) -> u64 {
    cgroup_cpu(plan).unwrap_or_else(|| {
        let counted = state.clock.and_then(clock::read).unwrap_or(0);
        counted.max(told_cpu(plan, state))
    })
}

/// Of all that were reaped here, of the first process, and of all that it has waited for.
fn told_cpu(plan: &Plan, state: &State) -> u64 {
    let reaped = sys::usage(libc::RUSAGE_CHILDREN).map_or(0, |(_, time)| time);
    if state.status.is_some() {
        return reaped;
    }
    // The kernel's name for the CPU clock of another process: `MAKE_PROCESS_CPUCLOCK(pid, 2)`.
    let running = sys::clock(!state.leader << 3 | 2).unwrap_or(0);
    // Elsewhere `/proc` has other numbers.
    let has_numbers = plan.root.is_some() || !plan.has_namespace(libc::CLONE_NEWPID);
    let waited = has_numbers.then(|| clock::waited(state.leader));
    reaped
        .saturating_add(running)
        .saturating_add(waited.flatten().unwrap_or(0))
}

fn cgroup_cpu(plan: &Plan) -> Option<u64> {
    let group = plan.on_host.cgroup.as_ref()?.directory.as_raw_fd();
    cgroup_value(group, c"cpu.stat", b"usage_usec").map(|micros| micros.saturating_mul(1000))
}

/// The number of a control group's file: the only one, or the one after a key.
fn cgroup_value(group: RawFd, file: &CStr, key: &[u8]) -> Option<u64> {
    let mut buffer = [0; 1024];
    let text = sys::read_file(group, file, &mut buffer).ok()?;
    let line = text
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(key))?;
    line.trim_ascii().iter().try_fold(0_u64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

fn summary(plan: &Plan, ready: &Ready, state: &State, cause: Cause) -> Summary {
    let wall_nanos = now().saturating_sub(state.begin);
    let (mut peak_bytes, mut cpu_nanos) = sys::usage(libc::RUSAGE_CHILDREN).unwrap_or((0, 0));
    let mut oom_kills = 0;
    let mut reached = Reached {
        processes: false,
        workspace: plan.root.is_some() && sys::is_full(ready.workspace).unwrap_or(false),
    };
    if let Some(group) = &plan.on_host.cgroup {
        let group = group.directory.as_raw_fd();
        peak_bytes = cgroup_value(group, c"memory.peak", b"").unwrap_or(peak_bytes);
        cpu_nanos = cgroup_cpu(plan).unwrap_or(cpu_nanos);
        oom_kills = cgroup_value(group, c"memory.events", b"oom_kill ").unwrap_or(0);
        reached.processes =
            cgroup_value(group, c"pids.events", b"max ").is_some_and(|times| times > 0);
    }
    if let Some(counted) = state.clock.and_then(clock::read) {
        cpu_nanos = cpu_nanos.max(counted);
    }
    Summary {
        cause,
        status: state.status.unwrap_or(0),
        wall_nanos,
        cpu_nanos: cpu_nanos.saturating_sub(state.used_before),
        peak_bytes,
        oom_kills,
        unmediated: state.unmediated,
        no_proc: state.no_proc,
        denials: state.denials,
        reached,
    }
}
