//! The client's side: starts a worker process and speaks to it.

use super::wire::{self, Record};
use super::{Job, Status};
use crate::vmm::process::{Logs, Process};
use crate::vmm::{Booted, Exit, Machine, MachineConfig, MachineError};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a worker may take beyond the boot time-out to say that the time is over, and beyond
/// that of a connection to say so.
const GRACE: Duration = Duration::from_secs(5);

/// Boots a guest in a worker process of `program` and waits until it reports itself ready.
///
/// # Errors
/// [`MachineError`]; whatever was started is gone by then.
pub(crate) fn boot(
    program: &Path,
    engine: &'static str,
    config: &MachineConfig,
) -> Result<Booted, MachineError> {
    let system = |step| move |source| MachineError::System { step, source };
    let (ours, theirs) = UnixStream::pair().map_err(system("create the worker's socket"))?;
    let reading = ours
        .try_clone()
        .map_err(system("share the worker's socket"))?;
    let job = Job::new(engine, config);
    let mut command = Command::new(program);
    command
        .args(job.arguments())
        .stdin(Stdio::from(OwnedFd::from(theirs)));
    command.env_clear();
    let mut logs = Logs::default();
    if let Some(value) = std::env::var_os(super::DEBUG) {
        command.env(super::DEBUG, value);
        let stderr = io::stderr().as_fd().try_clone_to_owned();
        logs.errors = stderr.ok().map(File::from);
    }
    let console_log = config.console_log.as_ref().map(File::try_clone).transpose();
    logs.console = console_log.map_err(system("share the console's log file"))?;
    let (ready, readiness) = sync_channel(1);
    let gone = ready.clone();
    let process = Process::spawn(command, Vec::new(), logs, move || {
        let _ = gone.try_send(None);
    })
    .map_err(system("start the worker"))?;
    let pending = Arc::new(Pending::default());
    let theirs = Arc::clone(&pending);
    let reader = std::thread::Builder::new()
        .name("vm-worker".into())
        .spawn(move || listen(&reading, &ready, &theirs))
        .map_err(system("start a thread"))?;
    let worker = Worker {
        process,
        socket: Mutex::new(ours),
        pending,
        tickets: AtomicU32::new(0),
        reader: Mutex::new(Some(reader)),
    };
    let ready = worker.wait_ready(&readiness, config.boot_timeout)?;
    Ok(Booted {
        machine: Arc::new(worker),
        ready,
    })
}

type Answer = Result<UnixStream, io::ErrorKind>;

/// Who waits for which connection.
#[derive(Debug, Default)]
struct Pending(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// No answer will come any more.
    closed: bool,
    answers: HashMap<u32, SyncSender<Answer>>,
}

impl Pending {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, ticket: u32) -> Receiver<Answer> {
        let (sender, answer) = sync_channel(1);
        let mut waiting = self.waiting();
        if !waiting.closed {
            waiting.answers.insert(ticket, sender);
        }
        answer
    }

    fn take(&self, ticket: u32) -> Option<SyncSender<Answer>> {
        self.waiting().answers.remove(&ticket)
    }

    /// Whoever waits is told by the end of the channel.
    fn close(&self) {
        let mut waiting = self.waiting();
        waiting.closed = true;
        waiting.answers.clear();
    }
}

/// Passes on what the worker says, until it has nothing more to say.
fn listen(socket: &UnixStream, ready: &SyncSender<Option<UnixStream>>, pending: &Pending) {
    while let Ok(Some((record, stream))) = wire::receive(socket) {
        match record {
            Record::Ready => {
                let _ = ready.try_send(stream);
            }
            Record::Connected { ticket, outcome } => {
                let answer = match (outcome.error(), stream) {
                    (None, Some(stream)) => Ok(stream),
                    (Some(kind), _) => Err(kind),
                    (None, None) => Err(io::ErrorKind::InvalidData),
                };
                if let Some(waiting) = pending.take(ticket) {
                    let _ = waiting.try_send(answer);
                }
            }
            Record::Connect { .. } => break,
        }
    }
    pending.close();
}

/// A guest in a worker process. The order of the fields is the order in which they end.
struct Worker {
    process: Process,
    socket: Mutex<UnixStream>,
    pending: Arc<Pending>,
    tickets: AtomicU32,
    reader: Mutex<Option<JoinHandle<()>>>,
}

impl Worker {
    fn wait_ready(
        &self,
        readiness: &Receiver<Option<UnixStream>>,
        timeout: Duration,
    ) -> Result<UnixStream, MachineError> {
        match readiness.recv_timeout(timeout.saturating_add(GRACE)) {
            Ok(Some(stream)) => return Ok(stream),
            Ok(None) => {}
            // The worker should have noticed first.
            Err(_) => self.process.stop(),
        }
        Err(match self.ended() {
            exit if exit.in_worker() == Some(Status::BootTimeout) => MachineError::BootTimeout {
                after: timeout,
                exit,
            },
            exit => MachineError::Exited { exit },
        })
    }

    /// How the guest ended. Whoever asks knows that it has.
    fn ended(&self) -> Box<Exit> {
        Box::new(self.process.outcome())
    }

    fn ask(&self, port: u32, timeout: Duration) -> io::Result<UnixStream> {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let answer = self.pending.add(ticket);
        let wish = Record::Connect {
            ticket,
            port,
            millis: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
        };
        {
            let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
            wire::send(&socket, wish, None).map_err(|_| io::ErrorKind::NotConnected)?;
        }
        match answer.recv_timeout(timeout.saturating_add(GRACE)) {
            Ok(answer) => Ok(answer?),
            Err(RecvTimeoutError::Disconnected) => Err(io::ErrorKind::NotConnected.into()),
            Err(RecvTimeoutError::Timeout) => {
                self.pending.take(ticket);
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }
}

impl Machine for Worker {
    fn connect(&self, port: u32, timeout: Duration) -> Result<UnixStream, MachineError> {
        self.ask(port, timeout)
            .map_err(|source| match source.kind() {
                io::ErrorKind::ConnectionRefused => MachineError::Refused { port },
                io::ErrorKind::NotConnected => {
                    // It hung up, so it is ending; if it is not, it must.
                    self.process.stop();
                    MachineError::Exited { exit: self.ended() }
                }
                _ => MachineError::Connect { port, source },
            })
    }

    fn stop(&self) {
        self.process.stop();
    }

    fn exit(&self) -> Option<Exit> {
        self.process.exit()
    }

    fn exit_within(&self, patience: Duration) -> Option<Exit> {
        self.process.exit_within(patience)
    }

    fn console_tail(&self) -> String {
        self.process.console()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.process.stop();
        let reader = self
            .reader
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(reader) = reader {
            // The worker was the other end's only holder, so this ends.
            let _ = reader.join();
        }
    }
}
