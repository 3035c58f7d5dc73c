//! One execution in the VM, seen from the host.
//!
//! Two threads serve it: one reads the agent's messages and fills the output pipes, one sends
//! standard input within the protocol's window. Back-pressure is the pipes' and the vsock
//! connection's own; nothing is buffered beyond a frame.

use super::Guest;
use super::connection::{self, Deadline, ReceiveError, Receiver, unexpected};
use super::outgoing::Outgoing;
use super::request::{exec_message, send_exec};
use crate::backend::watch::Watch;
use crate::backend::{Control, Session};
use crate::collect::{Breach, Collecting};
use crate::command::{InputFile, Request};
use crate::error::printable;
use crate::sandbox::Config;
use crate::{Error, Isolation, pump};
use ringfence_protocol::{
    CHUNK, Ended, FromAgent, Layer, LayerState, LayerStatus, Question, Report, STDIN_WINDOW,
    TerminalSize, ToAgent, Violation, port,
};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long the agent may take to start a program, and to end it after a kill or a time limit.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 20 });

/// The longest path in a question in bytes: the longest that Linux takes, and a name.
const LONGEST_PATH: usize = 4096 + 256;

/// An execution under way.
#[derive(Debug)]
struct Running {
    outgoing: Arc<Outgoing>,
    deadline: Arc<Deadline>,
    cause: OnceLock<Ended>,
    /// Closed by a kill, so that nobody waits for a caller who does not read the output.
    abandon: Mutex<Option<PipeWriter>>,
    state: Mutex<State>,
    changed: Condvar,
    /// Closed at the end, so that no thread waits for an agent that does not read.
    stream: UnixStream,
    /// Joined by whoever waits: a thread that lives on would keep the guest alive.
    threads: Mutex<Vec<JoinHandle<()>>>,
    guest: Arc<Guest>,
    collecting: Option<Arc<Collecting>>,
    watch: Option<Watch>,
    terminal: bool,
    /// When the first collected file came.
    collect_begun: OnceLock<Instant>,
}

#[derive(Debug)]
struct State {
    /// Bytes of standard input that may still be sent.
    window: usize,
    outcome: Option<Result<Report, Error>>,
    ended: bool,
}

/// Starts a program in the guest.
pub(super) fn start(
    guest: Arc<Guest>,
    config: &Config,
    request: Request,
) -> Result<Session, Error> {
    let has_stdin = request.stdin;
    let (collecting, policy, terminal) = (request.collecting, request.policy, request.terminal);
    let files = request.files.into_iter().map(InputFile::open);
    let files = files.collect::<Result<Vec<_>, _>>()?;
    let stream = guest.connect(port::EXEC)?;
    let kept = stream
        .try_clone()
        .map_err(Error::system("cannot keep the agent's connection"))?;
    let (mut sender, mut receiver, deadline) = connection::open(stream, PATIENCE)?;
    let mut inputs = exec_message(config, request.program, request.args, request.env, files)?;
    if let Some(collecting) = &collecting {
        inputs.exec.collect.clone_from(&collecting.patterns);
    }
    inputs.exec.terminal = terminal;
    inputs.exec.supervision = policy.as_ref().map(|policy| policy.supervision.clone());
    send_exec(&mut sender, inputs)?;
    match receiver.receive()? {
        Some(FromAgent::Started) => {}
        Some(FromAgent::Failed(failure)) => return Err(Error::from_failure(failure)),
        Some(_) => return Err(unexpected()),
        None => return Err(guest.gone()),
    }
    // The agent enforces the limit; the host's own one catches an agent that does not.
    deadline.reset(config.limits.wall.map(|wall| wall.saturating_add(PATIENCE)));
    let outgoing = Arc::new(Outgoing::new(sender));
    let own = Arc::clone(&outgoing);
    let answer = move |token, decision| {
        let answer = ToAgent::Answer { token, decision };
        // If the connection has broken, the execution's end says so.
        drop(own.send(&answer));
    };
    let watch = policy.map(|policy| Watch::start(policy, answer));
    let (abandoned, abandon) = io::pipe().map_err(Error::system("cannot make a pipe"))?;
    let running = Arc::new(Running {
        outgoing,
        abandon: Mutex::new(Some(abandon)),
        deadline,
        cause: OnceLock::new(),
        state: Mutex::new(State {
            window: STDIN_WINDOW,
            outcome: None,
            ended: false,
        }),
        changed: Condvar::new(),
        stream: kept,
        threads: Mutex::default(),
        guest: Arc::clone(&guest),
        collecting,
        watch: watch.transpose()?,
        terminal: terminal.is_some(),
        collect_begun: OnceLock::new(),
    });
    running.serve((receiver, abandoned), has_stdin, guest.engine)
}

fn breach(Breach(what): Breach) -> Error {
    Error::Agent {
        message: format!("the agent broke the protocol: {what}"),
    }
}

impl Running {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the pipes and starts the threads.
    fn serve(
        self: Arc<Self>,
        (receiver, abandoned): (Receiver, PipeReader),
        has_stdin: bool,
        engine: crate::Engine,
    ) -> Result<Session, Error> {
        let failed = || Error::system("cannot serve an execution in the VM");
        let (stdout, stdout_writer) = io::pipe().map_err(failed())?;
        let (stderr, stderr_writer) = io::pipe().map_err(failed())?;
        let (over, over_writer) = io::pipe().map_err(failed())?;
        for pipe in [&stdout_writer, &stderr_writer] {
            rustix::io::ioctl_fionbio(pipe, true).map_err(|error| failed()(error.into()))?;
        }
        let (stdin_reader, stdin) = match has_stdin {
            true => io::pipe().map(|(reader, writer)| (Some(reader), Some(writer))),
            false => Ok((None, None)),
        }
        .map_err(failed())?;
        let started = Instant::now();
        let running = Arc::clone(&self);
        let thread = thread::Builder::new().name("ringfence-vm-output".into());
        let spawned = thread.spawn(move || {
            let streams = [Some(stdout_writer), Some(stderr_writer)];
            let outcome = running.read_messages((receiver, abandoned), streams, started);
            running.finish(outcome);
            drop(over_writer);
        });
        self.keep(spawned.map_err(failed())?);
        let running = Arc::clone(&self);
        let thread = thread::Builder::new().name("ringfence-vm-input".into());
        let spawned = thread.spawn(move || running.write_stdin(stdin_reader, &over));
        match spawned {
            Ok(thread) => self.keep(thread),
            Err(error) => {
                self.kill(Ended::Killed);
                return Err(failed()(error));
            }
        }
        let isolation = Isolation::Vm;
        Ok(Session {
            stdin,
            stdout,
            stderr,
            over: None,
            control: self,
            isolation,
            engine: Some(engine),
        })
    }

    fn keep(&self, thread: JoinHandle<()>) {
        self.threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(thread);
    }

    fn read_messages(
        &self,
        (mut receiver, abandoned): (Receiver, PipeReader),
        mut streams: [Option<PipeWriter>; 2],
        started: Instant,
    ) -> Result<Report, Error> {
        loop {
            let message = match receiver.receive() {
                Ok(Some(message)) => message,
                Err(error) if error.is_timeout() => {
                    if let Some(collecting) = &self.collecting {
                        collecting.fail("the guest did not send the files in time".into());
                    }
                    return Ok(self.overdue(started));
                }
                Ok(None) | Err(ReceiveError::Io(_)) => return Err(self.guest.gone()),
                Err(error) => return Err(error.into()),
            };
            match message {
                FromAgent::Stdout(bytes) => self.deliver(&mut streams[0], &bytes, &abandoned),
                FromAgent::Stderr(bytes) => self.deliver(&mut streams[1], &bytes, &abandoned),
                FromAgent::StdinTaken(count) => self.widen(count)?,
                message @ (FromAgent::File { .. }
                | FromAgent::FileData(_)
                | FromAgent::NotCollected { .. }
                | FromAgent::CollectFailed(_)) => self.collect(message).map_err(breach)?,
                FromAgent::Question(question) => self.ask(*question).map_err(breach)?,
                FromAgent::Exited(report) => {
                    if let Some(collecting) = &self.collecting {
                        collecting.finish().map_err(breach)?;
                    }
                    return self.judge(*report);
                }
                FromAgent::Failed(failure) => return Err(Error::from_failure(failure)),
                _ => return Err(unexpected()),
            }
        }
    }

    /// A part of what is collected. Its bytes are what the time for it depends on.
    fn collect(&self, message: FromAgent) -> Result<(), Breach> {
        let Some(collecting) = &self.collecting else {
            return Err(Breach("a file that nobody asked for"));
        };
        match message {
            FromAgent::File { path, mode, size } => {
                let announced = collecting.begin(&path, mode, size)?;
                self.grant_time(announced);
                Ok(())
            }
            FromAgent::FileData(bytes) => collecting.data(&bytes),
            FromAgent::NotCollected { path, why } => collecting.skipped(&path, why),
            FromAgent::CollectFailed(why) => {
                collecting.fail(printable(&why));
                Ok(())
            }
            _ => Err(Breach("an answer out of turn")),
        }
    }

    /// A guest that sends files has a second for each MiB of them, counted from the first one.
    fn grant_time(&self, announced: u64) {
        let begun = self.collect_begun.get_or_init(Instant::now).elapsed();
        let time = PATIENCE.saturating_add(Duration::from_secs(announced >> 20));
        // Whoever has killed the program waits no longer for that.
        if self.cause.get().is_none() {
            self.deadline.reset(Some(time.saturating_sub(begun)));
        }
    }

    /// Passes a question on to the policy.
    fn ask(&self, question: Question) -> Result<(), Breach> {
        let Some(watch) = &self.watch else {
            return Err(Breach("a question that nobody wants to be asked"));
        };
        let paths = [Some(&question.path), question.destination.as_ref()];
        if paths
            .into_iter()
            .flatten()
            .any(|path| path.len() > LONGEST_PATH)
        {
            return Err(Breach("a question about a path that is too long"));
        }
        if !watch.is_meant(question.operation) {
            return Err(Breach("a question about what needs no answer"));
        }
        watch.take(question);
        Ok(())
    }

    /// What the policy refused so far.
    fn refused(&self) -> Vec<Violation> {
        self.watch.as_ref().map(Watch::refused).unwrap_or_default()
    }

    /// More standard input may be sent.
    fn widen(&self, count: u32) -> Result<(), Error> {
        let mut state = self.state();
        let window = usize::try_from(count)
            .ok()
            .and_then(|count| state.window.checked_add(count));
        state.window = window
            .filter(|window| *window <= STDIN_WINDOW)
            .ok_or_else(unexpected)?;
        self.changed.notify_all();
        Ok(())
    }

    /// The agent did not end the program in time: the VM is no longer to be trusted with anything.
    fn overdue(&self, started: Instant) -> Report {
        self.guest.stop();
        Report {
            ended: self.cause.get().copied().unwrap_or(Ended::TimedOut),
            wall: started.elapsed(),
            cpu: Duration::ZERO,
            peak_memory: 0,
            layers: vec![LayerState::active(Layer::Vm)],
            violations: self.refused(),
        }
    }

    /// A report as the host passes it on: checked, and with the layer that the guest cannot see.
    fn judge(&self, mut report: Report) -> Result<Report, Error> {
        if let (Some(cause), Ended::Signaled { signal: 9 } | Ended::Killed) =
            (self.cause.get(), report.ended)
        {
            report.ended = *cause;
        }
        for layer in Layer::REQUIRED {
            if !report
                .layers
                .iter()
                .any(|state| state.layer == layer && state.is_active())
            {
                let why = "the guest's report does not show it in force";
                return Err(Error::missing_layer(layer, why));
            }
        }
        report.layers.retain(|state| state.layer != Layer::Vm);
        for state in &mut report.layers {
            if let LayerStatus::Missing { why } = &mut state.status {
                *why = printable(why);
            }
        }
        report.layers.push(LayerState::active(Layer::Vm));
        for violation in &mut report.violations {
            violation.operation = printable(&violation.operation);
            violation.target = violation.target.as_deref().map(printable);
        }
        report.violations.extend(self.refused());
        Ok(report)
    }

    fn finish(&self, outcome: Result<Report, Error>) {
        // It may be closed already.
        drop(self.stream.shutdown(Shutdown::Both));
        self.watch.iter().for_each(Watch::end);
        let mut state = self.state();
        state.outcome = Some(outcome);
        state.ended = true;
        self.changed.notify_all();
    }

    /// Sends standard input until it ends or the execution is over.
    fn write_stdin(&self, stdin: Option<PipeReader>, over: &PipeReader) {
        if let Some(mut stdin) = stdin {
            while let Some(space) = self.window() {
                if !pump::readable(stdin.as_fd(), over.as_fd()) {
                    return;
                }
                let mut chunk = vec![0; space.min(CHUNK)];
                let Ok(len @ 1..) = stdin.read(&mut chunk) else {
                    break;
                };
                chunk.truncate(len);
                {
                    // Not `space`: the agent may have widened the window meanwhile.
                    let mut state = self.state();
                    state.window = state.window.saturating_sub(len);
                }
                if self.send(&ToAgent::Stdin(chunk.into())).is_err() {
                    return;
                }
            }
        }
        // If the connection has broken, the other thread reports it.
        drop(self.send(&ToAgent::StdinEnd));
    }

    /// Waits until input may be sent; `None` when the execution is over.
    fn window(&self) -> Option<usize> {
        let waiting = |state: &mut State| state.window == 0 && !state.ended;
        let state = self.changed.wait_while(self.state(), waiting);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        (!state.ended).then_some(state.window)
    }

    fn send(&self, message: &ToAgent) -> Result<(), ReceiveError> {
        self.outgoing.send(message)
    }

    /// Writes to a pipe of the caller's, whose writer does not wait by itself. When the caller has
    /// closed it, the program is not disturbed: what it still writes is dropped and counts as read.
    /// So it is when the program is to be dead and the caller does not read.
    fn deliver(&self, stream: &mut Option<PipeWriter>, bytes: &[u8], abandoned: &PipeReader) {
        let mut left = bytes;
        while let Some(pipe) = stream.as_mut().filter(|_| !left.is_empty()) {
            match pipe.write(left) {
                Ok(count) => left = left.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let time = self.deadline.remaining();
                    if !pump::writable(pipe.as_fd(), abandoned.as_fd(), time) {
                        *stream = None;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => *stream = None,
            }
        }
    }
}

impl Control for Running {
    fn kill(&self, cause: Ended) {
        if self.cause.set(cause).is_ok() && !self.state().ended {
            // Before anything that could wait.
            self.deadline.bring_forward(PATIENCE);
            let abandon = self.abandon.lock();
            drop(abandon.unwrap_or_else(PoisonError::into_inner).take());
            // If the agent cannot be told, its time is up all the sooner.
            if self.outgoing.kill().is_err() {
                self.deadline.bring_forward(Duration::ZERO);
            }
        }
    }

    fn signal(&self, signal: u8) -> Result<(), Error> {
        if self.state().ended {
            return Ok(());
        }
        Ok(self.send(&ToAgent::Signal(signal))?)
    }

    fn resize(&self, size: TerminalSize) -> Result<(), Error> {
        if !self.terminal {
            return Err(crate::backend::no_terminal());
        }
        if self.state().ended {
            return Ok(());
        }
        Ok(self.send(&ToAgent::Resize(size))?)
    }

    fn wait(&self) -> Result<Report, Error> {
        let state = self.changed.wait_while(self.state(), |state| !state.ended);
        let outcome = state.unwrap_or_else(PoisonError::into_inner).outcome.take();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A thread that panicked has left its mark: the outcome, or none.
            drop(thread.join());
        }
        outcome.unwrap_or_else(|| {
            Err(Error::Sandbox {
                message: "the program was waited for twice".into(),
            })
        })
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
