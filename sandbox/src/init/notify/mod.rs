//! Performs rare system calls on the program's behalf, where no layer confines them, and takes note of
//! those that are denied, for the report.
//!
//! Without a private root, Landlock has no say in changes of metadata (modes, owners, times,
//! extended attributes), and before Linux 7.1 none in connections to sockets with a path; it has
//! none in the names of abstract sockets, which without a network namespace are the host's. The
//! kernel holds these calls and asks here (`SECCOMP_RET_USER_NOTIF`). Whatever lies outside of what
//! the program may write to is refused; the rest is done here, and the program gets the result. The
//! call itself is never let through, because its arguments are in memory that another thread can
//! change after any look at them. Only `execve` must be, and is looked at once more ([`exec`]), and a
//! signal of a process to itself may, whose arguments are in registers ([`signal`]).
//!
//! A supervised program's caller is asked about further calls first ([`act`]): what the call is about
//! is held open while the question travels, and exactly that is done after it.
//!
//! # Who is trusted
//! Everything that a notification leads to is the program's: numbers, memory, names, descriptors,
//! links. Nothing is looked up outside the allowed roots ([`resolve`]), nothing is done with more
//! rights than the program has ([`rights`]), and nothing here waits for the program.
//!
//! # Invariants
//! - What was read of the program counts only if the notification is still valid afterwards:
//!   otherwise the process number may have become somebody else's.
//! - One notification is served per look at the limits, so that a flood of them delays no limit.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod act;
mod ask;
mod bind;
mod connect;
mod exec;
mod files;
mod listener;
mod loss;
mod metadata;
mod resolve;
mod rights;
mod signal;
mod target;

use super::trace::{Reach, Stop};
use super::{Done, User, item};
use crate::plan::{Mediation, Plan};
use crate::questions::Header;
use crate::seccomp::{self, Denials};
use crate::sys::{self, Errno, Sys};
use crate::wire::Step;
use act::{Act, Text, name_of};
use listener::Call;
use ringfence_protocol::{Decision, Operation};
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::atomic::Ordering;

pub(super) use listener::{Channel, install};
use rights::Rights;
use target::Target;

/// A descriptor that is closed with its value.
#[derive(Debug)]
struct Fd(RawFd);

impl Drop for Fd {
    fn drop(&mut self) {
        sys::close(self.0);
    }
}

/// Calls that are held while they are asked about or wait, at most. With a full table further ones
/// stay with the kernel while somebody is asked, and are told to try again otherwise.
const HELD: usize = 16;
/// Nanoseconds between two tries of what waits for another process of the program's: room in a
/// queue, the reader of a FIFO. The kernel tells of these only whoever waits itself.
const PAUSE: u64 = 5_000_000;
/// Nanoseconds between two looks at whether those who are held in a full table still live.
const LOOK: u64 = 50_000_000;

/// Whether the execution may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    GoOn,
    KillAll,
}

impl Verdict {
    fn or(self, other: Self) -> Self {
        match self {
            Self::GoOn => other,
            Self::KillAll => self,
        }
    }
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Performed {
    /// The program gets a zero.
    Done,
    /// The program has its answer.
    Answered,
    /// It would wait, as the program wants it to.
    Later,
    /// Something else would be lost by it than was asked about.
    Changed,
}

/// A call that is held for longer than it takes to look at it.
#[derive(Debug)]
struct Held {
    call: Call,
    act: Act,
    /// The question that it waits for, if any.
    token: Option<u64>,
    /// When it is tried again, or the question expires.
    until: u64,
}

/// The supervisor's end of the notifications.
pub(super) struct Notifier<'p> {
    listener: Option<RawFd>,
    plan: &'p Plan,
    mediation: Option<&'p Mediation>,
    /// Where questions are put, as long as somebody listens.
    questions: Option<RawFd>,
    rights: Rights,
    own_processes: bool,
    /// The error for which the kernel gave no listener.
    unheard: i32,
    denials: Denials,
    held: [Option<Held>; HELD],
    executing: exec::Executing,
    next_token: u64,
    /// When what is held was looked at.
    looked: u64,
}

impl<'p> Notifier<'p> {
    /// Takes over the listener that the program's process sent, if it did.
    pub(super) fn new(plan: &'p Plan, user: User, channel: &Channel) -> Sys<Self> {
        let (listener, unheard) = channel.take()?;
        let mediation = plan.mediation.as_ref();
        let supervised = mediation.and_then(|mediation| mediation.supervision.as_ref());
        Ok(Self {
            listener,
            plan,
            mediation,
            questions: supervised.map(|supervised| supervised.questions),
            rights: Rights::new(plan, user)?,
            // A private root has a `/proc` with the same numbers.
            own_processes: plan.has_namespace(libc::CLONE_NEWPID) && plan.root.is_none(),
            unheard,
            denials: Denials::default(),
            held: [const { None }; HELD],
            executing: exec::Executing::new(if plan.has_namespace(libc::CLONE_NEWPID) {
                Reach::Namespace
            } else {
                Reach::Host
            }),
            next_token: 0,
            looked: 0,
        })
    }

    fn is_full(&self) -> bool {
        self.held.iter().all(Option::is_some)
    }

    /// What to wait for; -1 for nothing.
    pub(super) fn descriptors(&self) -> [RawFd; 2] {
        let supervised = self
            .mediation
            .and_then(|mediation| mediation.supervision.as_ref());
        let wanted = supervised.is_none() || !self.is_full();
        let listener = self.listener.filter(|_| wanted);
        let questions = self.questions.filter(|_| self.listener.is_some());
        [listener, questions].map(|fd| fd.unwrap_or(-1))
    }

    /// The error for which the kernel gave no notifications, so that what would be performed is
    /// denied.
    pub(super) fn unmediated(&self) -> i32 {
        self.mediation.map_or(0, |_| self.unheard)
    }

    /// What the filter denied so far, where there is a listener.
    pub(super) fn denials(&self) -> Denials {
        self.denials
    }

    /// Asks nobody any more: the execution has ended.
    pub(super) fn end(&mut self) {
        if let Some(questions) = self.questions.take() {
            sys::close(questions);
        }
    }

    /// When something is to be done about calls that are held, if there are any.
    pub(super) fn wake(&self) -> Option<u64> {
        self.listener?;
        let due = self.held.iter().flatten().map(|held| held.until);
        // Whoever was held may have been killed, which nobody tells.
        let look = self.is_full().then(|| self.looked.saturating_add(LOOK));
        due.chain(look).min()
    }

    /// Takes note of a thread or process that has stopped or ended. Nothing goes on when it is about
    /// to run what was not allowed.
    pub(super) fn changed(&mut self, number: i32, stop: Option<Stop>) -> Verdict {
        let Self {
            mediation: Some(mediation),
            rights,
            own_processes,
            executing,
            ..
        } = self
        else {
            return Verdict::GoOn;
        };
        let process = number.cast_unsigned();
        let verdict = executing.changed(number, stop, mediation, |is_allowed| {
            rights.as_program(|| is_allowed(&Target::stopped(process, *own_processes)?))
        });
        if verdict == Verdict::KillAll {
            let _ = self.tell_of_image(process);
        }
        verdict
    }

    /// Takes note of one that has stopped or ended while everything is being killed.
    pub(super) fn finish(&mut self, number: i32, stop: Option<Stop>) {
        self.executing.finish(number, stop);
    }

    /// Whether somebody is still seized who is nobody of the program's.
    pub(super) fn has_strangers(&self) -> bool {
        self.executing.has_strangers()
    }

    /// Tells what a stopped process was about to run, as a question that nobody can answer.
    fn tell_of_image(&mut self, process: u32) -> Sys<()> {
        let questions = self.questions.ok_or(Errno(libc::EPIPE))?;
        let mut text = Text::new();
        self.rights.as_program(|| {
            let target = Target::stopped(process, self.own_processes)?;
            text.object(&target.link(b"exe")?)
        })?;
        let header = Header {
            token: self.next_token,
            operation: Operation::Exec,
            process,
            first_len: u32::try_from(text.first_len()).unwrap_or(u32::MAX),
            expired: true,
        };
        self.next_token = self.next_token.wrapping_add(1);
        ask::send(questions, &header, text.bytes())
    }

    /// Does what is due, takes one answer and serves one notification, if these events are on the
    /// listener and on the questions.
    pub(super) fn serve(&mut self, [listened, answered]: [i16; 2], now: u64) -> Verdict {
        let Some(listener) = self.listener else {
            return Verdict::GoOn;
        };
        let mut verdict = Verdict::GoOn;
        if let Some(mediation) = self.mediation {
            let mut server = self.server(listener, mediation, now);
            // Before any answer to what they asked.
            server.forget_dead();
            if answered != 0 {
                server.take_answer();
            }
            server.do_due();
            verdict = server.verdict;
        }
        if listened & libc::POLLIN != 0
            // Whoever was held may have been killed meanwhile.
            && let Ok(call) = listener::receive(listener)
        {
            verdict = verdict.or(self.take(listener, call, now));
        }
        if listened != 0 && listened & libc::POLLIN == 0 {
            // Nobody is left who could call.
            sys::close(listener);
            self.listener = None;
        }
        verdict
    }

    /// Looks at a new call.
    fn take(&mut self, listener: RawFd, call: Call, now: u64) -> Verdict {
        let denial = seccomp::denial(self.plan.separated, call.number, &call.args);
        if let Some(place) = denial {
            self.denials.insert(place);
        }
        match self.mediation.filter(|_| denial.is_none()) {
            Some(mediation) => {
                let mut server = self.server(listener, mediation, now);
                server.begin(call);
                server.verdict
            }
            None => {
                listener::answer(listener, call.id, Err(Errno(libc::EPERM)));
                Verdict::GoOn
            }
        }
    }

    fn server(&mut self, listener: RawFd, mediation: &'p Mediation, now: u64) -> Server<'_, 'p> {
        Server {
            notifier: self,
            listener,
            mediation,
            now,
            verdict: Verdict::GoOn,
        }
    }
}

/// The notifier at one moment.
struct Server<'n, 'p> {
    notifier: &'n mut Notifier<'p>,
    listener: RawFd,
    mediation: &'p Mediation,
    now: u64,
    verdict: Verdict,
}

impl Server<'_, '_> {
    /// Looks at a new call that is not denied.
    fn begin(&mut self, call: Call) {
        if signal::is_meant(call.number) {
            return self.signal(&call);
        }
        let own_processes = self.notifier.own_processes;
        let prepared = self.notifier.rights.as_program(|| {
            let target = Target::new(self.listener, &call, own_processes)?;
            let (number, args) = (call.number, &call.args);
            if number == libc::SYS_connect {
                return connect::prepare(&target, self.mediation, args)
                    .map(|ready| Some(Act::Connect(ready)));
            }
            if number == libc::SYS_bind {
                let plan = (self.notifier.plan, self.mediation);
                let held = (self.listener, call.id);
                return bind::perform(&target, plan, held, args).map(|()| None);
            }
            if metadata::is_meant(number) {
                return metadata::perform(&target, self.mediation, number, args).map(|()| None);
            }
            if matches!(number, libc::SYS_execve | libc::SYS_execveat) {
                let ready = exec::prepare(&target, self.mediation, own_processes, (number, args))?;
                return Ok(Some(Act::Exec(ready)));
            }
            files::prepare(&target, self.mediation, number, args).map(Some)
        });
        match prepared {
            Ok(Some(act)) => match act
                .operation()
                .filter(|operation| self.is_asked(*operation))
            {
                Some(operation) => self.ask(call, act, operation),
                None => self.perform(call, act),
            },
            Ok(None) => listener::answer(self.listener, call.id, Ok(())),
            Err(errno) => listener::answer(self.listener, call.id, Err(errno)),
        }
    }

    fn signal(&self, call: &Call) {
        let done = match signal::send(self.listener, call, &self.notifier.rights) {
            Ok(signal::Sender::Program) => {
                // That nobody waits for it any more is no matter.
                let _ = listener::go_on(self.listener, call.id);
                return;
            }
            Ok(signal::Sender::Supervisor) => Ok(()),
            Err(errno) => Err(errno),
        };
        listener::answer(self.listener, call.id, done);
    }

    fn is_asked(&self, operation: Operation) -> bool {
        let supervised = self.mediation.supervision.as_ref();
        supervised.is_some_and(|supervised| supervised.asks(operation))
    }

    fn perform(&mut self, call: Call, act: Act) {
        let mut act = match act {
            Act::Exec(ready) => return self.execute(call, ready),
            act => act,
        };
        let rights = &self.notifier.rights;
        let answer = match rights.as_program(|| act.perform(self.listener, call.id)) {
            Ok(Performed::Answered) => return,
            Ok(Performed::Done) => Ok(()),
            Ok(Performed::Changed) => return self.ask(call, act, Operation::Delete),
            Ok(Performed::Later) => {
                let until = self.now.saturating_add(PAUSE);
                match self.hold(call, act, None, until) {
                    Ok(()) => return,
                    Err(errno) => Err(errno),
                }
            }
            Err(errno) => Err(errno),
        };
        listener::answer(self.listener, call.id, answer);
    }

    fn execute(&mut self, call: Call, ready: exec::Ready) {
        let Notifier {
            executing, rights, ..
        } = &mut *self.notifier;
        let done = match executing.start(self.listener, &call, ready, rights) {
            exec::Started::Going => Ok(()),
            exec::Started::Refused(errno) => Err(errno),
            exec::Started::Later(ready) => {
                let until = self.now.saturating_add(PAUSE);
                self.hold(call, Act::Exec(ready), None, until)
            }
        };
        if done.is_err() {
            listener::answer(self.listener, call.id, done);
        }
    }

    fn hold(&mut self, call: Call, act: Act, token: Option<u64>, until: u64) -> Sys<()> {
        let mut slots = self.notifier.held.iter_mut();
        let slot = slots.find(|slot| slot.is_none());
        *slot.ok_or(Errno(libc::EAGAIN))? = Some(Held {
            call,
            act,
            token,
            until,
        });
        Ok(())
    }

    /// Puts a question and holds the call until it is answered or has expired.
    fn ask(&mut self, call: Call, act: Act, operation: Operation) {
        let token = self.notifier.next_token;
        self.notifier.next_token = token.wrapping_add(1);
        let limit = self.mediation.supervision.as_ref();
        let limit = limit.map_or(0, |supervised| supervised.limit);
        let until = match self.tell(&act, (token, operation, call.pid), false) {
            Ok(()) => self.now.saturating_add(limit),
            // Nobody listens, or somebody too slowly.
            Err(_) => self.now,
        };
        if let Err(errno) = self.hold(call, act, Some(token), until) {
            listener::answer(self.listener, call.id, Err(errno));
        }
    }

    fn tell(
        &self,
        act: &Act,
        (token, operation, process): (u64, Operation, u32),
        expired: bool,
    ) -> Sys<()> {
        let questions = self.notifier.questions.ok_or(Errno(libc::EPIPE))?;
        let mut text = Text::new();
        self.notifier
            .rights
            .as_program(|| act.describe(&mut text))?;
        let first_len = u32::try_from(text.first_len()).unwrap_or(u32::MAX);
        let header = Header {
            token,
            operation,
            process,
            first_len,
            expired,
        };
        ask::send(questions, &header, text.bytes())
    }

    /// Takes an answer, and does what it says.
    fn take_answer(&mut self) {
        let Some(questions) = self.notifier.questions else {
            return;
        };
        match ask::receive(questions) {
            Ok(Some((token, decision))) => {
                let mut slots = self.notifier.held.iter_mut();
                let slot = slots.find(|slot| {
                    let held = slot.as_ref();
                    held.is_some_and(|held| held.token == Some(token))
                });
                if let Some(held) = slot.and_then(Option::take) {
                    self.decide(held, decision);
                }
            }
            Ok(None) | Err(Errno(libc::EAGAIN)) => {}
            Err(_) => {
                self.notifier.questions = None;
                let asked = self.notifier.held.iter_mut().flatten();
                for held in asked.filter(|held| held.token.is_some()) {
                    held.until = self.now;
                }
            }
        }
    }

    fn decide(&mut self, held: Held, decision: Decision) {
        let id = held.call.id;
        match decision {
            Decision::Allow => self.perform(held.call, held.act),
            Decision::Deny(errno) => listener::answer(self.listener, id, Err(Errno(errno))),
            // Without an answer the program does not go on until it is killed.
            Decision::Kill => self.verdict = Verdict::KillAll,
        }
    }

    /// Makes room where somebody was killed while held.
    fn forget_dead(&mut self) {
        let listener = self.listener;
        for slot in &mut self.notifier.held {
            let _ = slot.take_if(|held| listener::is_valid(listener, held.call.id).is_err());
        }
        self.notifier.looked = self.now;
    }

    /// Tries what waits again, and applies the default to questions that have expired.
    fn do_due(&mut self) {
        let default = self.mediation.supervision.as_ref();
        let default = default.map_or(Decision::REFUSE, |supervised| supervised.default);
        for index in 0..HELD {
            let slot = self.notifier.held.get_mut(index);
            let due = slot.and_then(|slot| slot.take_if(|held| self.now >= held.until));
            let Some(held) = due else {
                continue;
            };
            match (held.token, held.act.operation()) {
                (Some(token), Some(operation)) => {
                    let _ = self.tell(&held.act, (token, operation, held.call.pid), true);
                    self.decide(held, default);
                }
                _ => self.perform(held.call, held.act),
            }
        }
    }
}

/// Opens what the program may write to.
pub(super) fn open_roots(plan: &Plan) -> Done {
    let roots = plan.mediation.iter().flat_map(|mediation| &mediation.roots);
    for (index, root) in roots.enumerate() {
        let opened = match &root.file {
            Some(file) => Ok(file.as_raw_fd()),
            None => sys::openat(libc::AT_FDCWD, &root.path, libc::O_PATH, 0),
        };
        let opened = opened.map_err(item(Step::Workspace, index))?;
        root.opened.store(opened, Ordering::Relaxed);
    }
    Ok(())
}

/// The low 32 bits of an argument, which is all that the kernel looks at for an `int`.
const fn low(argument: u64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
    let low = argument as u32;
    low
}

/// Whether both are the same file. Both are open, so that its number is not given to another.
fn is_same(one: &Fd, other: &Fd) -> Sys<bool> {
    Ok(sys::file_id(one.0)? == sys::file_id(other.0)?)
}

/// Refused because of where it lies.
const OUTSIDE: Errno = Errno(libc::EPERM);
