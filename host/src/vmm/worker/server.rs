//! The worker's side: runs one machine and serves one client.

use super::wire::{self, Outcome, Record};
use super::{DEBUG, Job, Status};
use crate::error::chain;
use crate::vmm::devices::pl011::Output;
use crate::vmm::machine::{self, Running};
use crate::vmm::vcpus::{End, Vcpus};
use crate::vmm::vsock::{Refused, VsockHost};
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Why a worker has no machine to offer.
#[derive(Debug, thiserror::Error)]
enum WorkerError {
    #[error(
        "{} is what ringfence starts to run a VM in; it is of no use by hand",
        super::COMMAND
    )]
    ByHand,
    #[error("cannot {step}")]
    System {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Machine(#[from] machine::StartError),
}

/// Runs a machine until it or the client ends. `arguments` are those behind the subcommand.
pub(crate) fn serve(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let status = work(arguments).unwrap_or_else(|error| {
        eprintln!("{}", chain(&error));
        match error {
            WorkerError::Machine(error) if error.is_denied() => Status::Denied,
            _ => Status::NoMachine,
        }
    });
    ExitCode::from(status as u8)
}

/// What the main thread waits for.
enum Event {
    Ready,
    Ended,
}

fn work(arguments: impl Iterator<Item = OsString>) -> Result<Status, WorkerError> {
    let began = Instant::now();
    let job = match Job::parse(arguments) {
        Some(job) if !io::stdin().is_terminal() => job,
        _ => return Err(WorkerError::ByHand),
    };
    let system = |step| move |source| WorkerError::System { step, source };
    let socket = io::stdin().as_fd().try_clone_to_owned();
    let socket = UnixStream::from(socket.map_err(system("take the client's socket"))?);
    let client = Arc::new(Client::new(socket).map_err(system("share the client's socket"))?);
    let (events, event) = sync_channel(2);
    let (ready, teller) = (events.clone(), Arc::clone(&client));
    let parts = machine::Parts {
        engine: &job.engine,
        kernel: &job.kernel,
        initramfs: &job.initramfs,
        rootfs: &job.rootfs,
        memory: job.memory,
        cpus: job.cpus,
        kernel_args: &job.kernel_args,
        console: Arc::new(Console::default()),
    };
    let (running, listening) = machine::start(&parts, |door| {
        let is_ready = move |stream: UnixStream| teller.is_ready(&stream, &ready);
        door.listen(job.ready_port, Box::new(is_ready))
    })?;
    let Running {
        vcpus,
        mut threads,
        door,
    } = running;
    let theirs = Arc::clone(&vcpus);
    std::thread::Builder::new()
        .name("client".into())
        .spawn(move || client.serve(&door, &theirs))
        .map_err(system("start a thread"))?;
    let ending = std::thread::Builder::new()
        .name("end".into())
        .spawn(move || {
            threads.join();
            let _ = events.send(Event::Ended);
        })
        .map_err(system("start a thread"))?;
    let late = wait(&event, job.boot_timeout, &vcpus, began);
    // The processors' thread has sent its event or is about to; nothing else is left to wait for.
    let _ = ending.join();
    drop(listening);
    Ok(epitaph(&vcpus, late))
}

/// Waits for the machine's end. True if it did not become ready in time and was ended therefore.
fn wait(event: &Receiver<Event>, timeout: Duration, vcpus: &Vcpus, began: Instant) -> bool {
    match event.recv_timeout(timeout) {
        Ok(Event::Ready) => {
            if std::env::var_os(DEBUG).is_some() {
                tell_start(vcpus, began);
            }
            // Whatever comes next is the end.
            let _ = event.recv();
            false
        }
        Ok(Event::Ended) | Err(RecvTimeoutError::Disconnected) => false,
        Err(RecvTimeoutError::Timeout) => {
            vcpus.finish(End::Stopped);
            true
        }
    }
}

/// For people who look into where the time goes.
fn tell_start(vcpus: &Vcpus, began: Instant) {
    let counts = vcpus.exit_counts();
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    eprintln!(
        "ready after {:.1} ms and {total} exits:",
        began.elapsed().as_secs_f64() * 1e3
    );
    for (what, count) in counts {
        eprintln!("  {count:6} {what}");
    }
}

fn epitaph(vcpus: &Vcpus, late: bool) -> Status {
    let end = vcpus.end().unwrap_or(End::Stopped);
    if late || matches!(end, End::Fault(_)) {
        if !late {
            eprintln!("{end}");
        }
        eprint!("{}", vcpus.last_words());
    }
    if late {
        Status::BootTimeout
    } else {
        Status::from(&end)
    }
}

/// The socket to the client.
struct Client {
    reading: UnixStream,
    writing: Mutex<UnixStream>,
}

impl Client {
    fn new(socket: UnixStream) -> io::Result<Self> {
        Ok(Self {
            writing: Mutex::new(socket.try_clone()?),
            reading: socket,
        })
    }

    fn send(&self, record: Record, stream: Option<&UnixStream>) -> io::Result<()> {
        let socket = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        wire::send(&socket, record, stream.map(AsFd::as_fd))
    }

    fn is_ready(&self, stream: &UnixStream, ready: &SyncSender<Event>) -> Result<(), Refused> {
        self.send(Record::Ready, Some(stream))
            .map_err(|_| Refused)?;
        let _ = ready.try_send(Event::Ready);
        Ok(())
    }

    /// Does what the client wishes until it hangs up, and then ends the machine.
    fn serve(self: Arc<Self>, door: &VsockHost, vcpus: &Vcpus) {
        while let Ok(Some((record, _))) = wire::receive(&self.reading) {
            let Record::Connect {
                ticket,
                port,
                millis,
            } = record
            else {
                break;
            };
            let this = Arc::clone(&self);
            let door = door.clone();
            let connecting = std::thread::Builder::new()
                .name("connect".into())
                .spawn(move || this.connect(&door, ticket, port, millis));
            if connecting.is_err() {
                let outcome = Outcome::Failed;
                // When it does not get there, the next `receive` says so too.
                let _ = self.send(Record::Connected { ticket, outcome }, None);
            }
        }
        vcpus.finish(End::Stopped);
    }

    fn connect(&self, door: &VsockHost, ticket: u32, port: u32, millis: u32) {
        let result = door.connect(port, Duration::from_millis(millis.into()));
        let outcome = match &result {
            Ok(_) => Outcome::Done,
            Err(error) => Outcome::of(error),
        };
        // If the client has gone, `serve` notices.
        let _ = self.send(Record::Connected { ticket, outcome }, result.as_ref().ok());
    }
}

/// The guest's console goes to standard output, whose other end the client drains. In pieces of a
/// line, so that a guest's last words are not a thousand writes.
#[derive(Default)]
struct Console(Mutex<Vec<u8>>);

/// Longest piece.
const PIECE: usize = 256;

impl Output for Console {
    fn write(&self, bytes: &[u8]) {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for &byte in bytes {
            line.push(byte);
            if byte == b'\n' || line.len() >= PIECE {
                flush(&mut line);
            }
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        flush(self.0.get_mut().unwrap_or_else(PoisonError::into_inner));
    }
}

fn flush(line: &mut Vec<u8>) {
    // Without a client there is nobody to tell.
    let _ = io::stdout()
        .lock()
        .write_all(line)
        .and_then(|()| io::stdout().flush());
    line.clear();
}
