//! A running program and its streams.

use crate::backend::{Control, Session};
use crate::collect::Collecting;
use crate::pump::{self, InputPump, ready};
use crate::stdio::{Kind, Stdio};
use crate::{
    CollectError, Collected, Engine, Error, Isolation, Output, Report, Sandbox, TerminalSize,
};
use ringfence_protocol::Ended;
use rustix::event::PollFlags;
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

/// A running program. Dropping it kills the program and everything that it started.
#[derive(Debug)]
pub struct Child {
    /// Standard input, if it was asked for with [`Stdio::piped`]. Dropping it ends the input.
    pub stdin: Option<ChildStdin>,
    /// Standard output, if it was asked for with [`Stdio::piped`].
    pub stdout: Option<ChildStdout>,
    /// Standard error, if it was asked for with [`Stdio::piped`].
    pub stderr: Option<ChildStderr>,
    control: Arc<dyn Control>,
    meter: Arc<Meter>,
    isolation: Isolation,
    engine: Option<Engine>,
    input: Option<InputPump>,
    outputs: Vec<JoinHandle<io::Result<()>>>,
    report: Option<Report>,
    collecting: Option<Arc<Collecting>>,
    /// Keeps the VM that the program runs in.
    _sandbox: Sandbox,
}

/// Kills or signals a [`Child`] from another thread, for instance while one waits for it.
#[derive(Debug, Clone)]
pub struct Killer(Arc<dyn Control>);

impl Killer {
    /// Kills the program and everything that it started. Its report will say
    /// [`Ended::Killed`]. No effect when it has ended.
    pub fn kill(&self) {
        self.0.kill(Ended::Killed);
    }

    /// Sends the program a signal by its number. No effect when it has ended.
    ///
    /// # Errors
    /// When there is no such signal or the VM is gone.
    pub fn signal(&self, signal: u8) -> Result<(), Error> {
        self.0.signal(signal)
    }

    /// Gives the program's terminal another size. No effect when it has ended.
    ///
    /// # Errors
    /// When the program has no terminal or the VM is gone.
    pub fn resize(&self, size: TerminalSize) -> Result<(), Error> {
        self.0.resize(size)
    }
}

impl Child {
    pub(crate) fn new(
        session: Session,
        sandbox: &Sandbox,
        input: Option<Vec<u8>>,
        [stdin, stdout, stderr]: [Stdio; 3],
        collecting: Option<Arc<Collecting>>,
    ) -> Result<Self, Error> {
        let meter = Arc::new(Meter {
            limit: sandbox.inner.config.limits.output,
            used: AtomicU64::new(0),
            exceeded: AtomicBool::new(false),
            control: Arc::clone(&session.control),
        });
        let mut child = Self {
            stdin: None,
            stdout: None,
            stderr: None,
            control: session.control,
            meter: Arc::clone(&meter),
            isolation: session.isolation,
            engine: session.engine,
            input: None,
            outputs: Vec::new(),
            report: None,
            collecting,
            _sandbox: sandbox.clone(),
        };
        child.connect_input(session.stdin, input, stdin)?;
        let failed = || Error::system("cannot copy a descriptor");
        let over = session.over.as_ref().map(OwnedFd::try_clone);
        let stdout_reader = Metered {
            pipe: session.stdout,
            over: over.transpose().map_err(failed())?,
            meter: Arc::clone(&meter),
        };
        let stderr_reader = Metered {
            pipe: session.stderr,
            over: session.over,
            meter,
        };
        let inherited = || rustix::stdio::stdout().try_clone_to_owned();
        child.stdout = child
            .connect_output(stdout_reader, stdout, inherited)?
            .map(ChildStdout);
        let inherited = || rustix::stdio::stderr().try_clone_to_owned();
        child.stderr = child
            .connect_output(stderr_reader, stderr, inherited)?
            .map(ChildStderr);
        Ok(child)
    }

    fn connect_input(
        &mut self,
        pipe: Option<PipeWriter>,
        bytes: Option<Vec<u8>>,
        stdio: Stdio,
    ) -> Result<(), Error> {
        let Some(pipe) = pipe else { return Ok(()) };
        let start = Error::system("cannot start a thread for standard input");
        self.input = match (bytes, stdio.0) {
            (Some(bytes), _) => Some(InputPump::of_bytes(bytes, pipe).map_err(start)?),
            (None, Kind::Null) => None,
            (None, Kind::Piped) => {
                self.stdin = Some(ChildStdin(pipe));
                None
            }
            (None, Kind::Inherit) => {
                let own = rustix::stdio::stdin().try_clone_to_owned();
                let file = own.map(File::from);
                Some(
                    file.and_then(|file| InputPump::of_file(file, pipe))
                        .map_err(start)?,
                )
            }
            (None, Kind::File(file)) => Some(InputPump::of_file(file, pipe).map_err(start)?),
        };
        Ok(())
    }

    fn connect_output(
        &mut self,
        reader: Metered,
        stdio: Stdio,
        inherited: impl FnOnce() -> io::Result<OwnedFd>,
    ) -> Result<Option<Metered>, Error> {
        let target: Box<dyn Write + Send> = match stdio.0 {
            Kind::Piped => return Ok(Some(reader)),
            Kind::Null => Box::new(io::sink()),
            Kind::File(file) => Box::new(file),
            Kind::Inherit => Box::new(File::from(
                inherited().map_err(Error::system("cannot copy a standard stream's descriptor"))?,
            )),
        };
        let pump = thread::Builder::new().name("ringfence-output".into());
        let pump = pump.spawn(move || pump::output(reader, target));
        self.outputs.push(pump.map_err(Error::system(
            "cannot start a thread for the program's output",
        ))?);
        Ok(None)
    }

    /// A handle that kills or signals the program from another thread.
    #[must_use]
    pub fn killer(&self) -> Killer {
        Killer(Arc::clone(&self.control))
    }

    /// Gives the program's terminal another size.
    ///
    /// # Errors
    /// When the program has no [`terminal`](crate::Command::terminal) or the VM is gone.
    pub fn resize(&self, size: TerminalSize) -> Result<(), Error> {
        self.control.resize(size)
    }

    /// Kills the program and everything that it started; [`wait`](Self::wait) then reports
    /// [`Ended::Killed`].
    pub fn kill(&self) {
        self.control.kill(Ended::Killed);
    }

    /// Waits until the program and everything that it started is gone, and reports. Standard
    /// input is closed first. As with [`std::process`], streams that were asked for with
    /// [`Stdio::piped`] have to be read, or the program may wait for their reader for ever (or
    /// rather until its time limit).
    ///
    /// # Errors
    /// [`Error`] when the execution could not be followed to its end; the program is dead then.
    pub fn wait(&mut self) -> Result<Report, Error> {
        drop(self.stdin.take());
        if let Some(report) = &self.report {
            return Ok(report.clone());
        }
        let outcome = self.control.wait();
        drop(self.input.take());
        let mut written = Ok(());
        for pump in self.outputs.drain(..) {
            // A pump does not panic; if it did, its stream is incomplete.
            let done = pump
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the pump panicked")));
            written = written.and(done);
        }
        let report = outcome?;
        written.map_err(Error::system("cannot write the program's output"))?;
        let ended = match report.ended {
            Ended::Exited { .. } | Ended::Signaled { .. } | Ended::Killed
                if self.meter.exceeded.load(Ordering::Acquire) =>
            {
                Ended::OutputExceeded
            }
            ended => ended,
        };
        let report = Report {
            ended,
            wall: report.wall,
            cpu: report.cpu,
            peak_memory: report.peak_memory,
            isolation: self.isolation,
            engine: self.engine,
            layers: report.layers,
            violations: report.violations,
        };
        self.report = Some(report.clone());
        Ok(report)
    }

    /// The files that were collected; none before [`wait`](Self::wait) has returned.
    ///
    /// # Errors
    /// [`CollectError`] when not everything that matches could be collected.
    pub fn collected(&self) -> Result<Collected, CollectError> {
        match &self.collecting {
            Some(collecting) if self.report.is_some() => collecting.outcome(),
            _ => Ok(Collected::default()),
        }
    }

    /// Reads what the program still writes, both streams at the same time, and waits for its end.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_with_output(mut self) -> Result<Output, Error> {
        drop(self.stdin.take());
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        let read = Error::system("cannot read the program's output");
        let read_all = thread::scope(|scope| {
            let stderr =
                thread::Builder::new().spawn_scoped(scope, || collect(stderr.map(|s| s.0)))?;
            let stdout = collect(stdout.map(|s| s.0));
            let stderr = stderr
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("reader panicked")));
            Ok((stdout?, stderr?))
        });
        let report = self.wait()?;
        let (stdout, stderr) = read_all.map_err(read)?;
        // In a VM it is the agent that cuts the output, exactly at the limit.
        let truncated = self.truncated() || report.ended == Ended::OutputExceeded;
        let collected = self.collected();
        Ok(Output {
            report,
            stdout,
            stderr,
            truncated,
            collected,
        })
    }

    /// Whether the output limit has cut the program's output short so far.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.meter.exceeded.load(Ordering::Acquire)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.report.is_none() {
            if let Some(collecting) = &self.collecting {
                collecting.abandon();
            }
            self.control.kill(Ended::Killed);
            drop((self.stdout.take(), self.stderr.take()));
            if let Err(error) = self.wait() {
                tracing::debug!(%error, "a dropped child could not be followed to its end");
            }
        }
    }
}

/// A program's standard input. Dropping it ends the input.
#[derive(Debug)]
pub struct ChildStdin(PipeWriter);

impl Write for ChildStdin {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A program's standard output.
#[derive(Debug)]
pub struct ChildStdout(Metered);

impl Read for ChildStdout {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// A program's standard error.
#[derive(Debug)]
pub struct ChildStderr(Metered);

impl Read for ChildStderr {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// Counts standard output and standard error together, and kills at the limit.
#[derive(Debug)]
struct Meter {
    limit: Option<u64>,
    used: AtomicU64,
    exceeded: AtomicBool,
    control: Arc<dyn Control>,
}

impl Meter {
    /// How many of `len` more bytes are within the limit.
    fn admit(&self, len: usize) -> usize {
        let Some(limit) = self.limit else { return len };
        let len64 = u64::try_from(len).unwrap_or(u64::MAX);
        let before = self.used.fetch_add(len64, Ordering::AcqRel);
        let left = limit.saturating_sub(before);
        if len64 <= left {
            return len;
        }
        if !self.exceeded.swap(true, Ordering::AcqRel) {
            self.control.kill(Ended::OutputExceeded);
        }
        usize::try_from(left).unwrap_or(len)
    }
}

/// A stream of the program's behind the output limit.
#[derive(Debug)]
pub(crate) struct Metered {
    pipe: PipeReader,
    /// What comes after everything is dead is nobody's of the program's.
    over: Option<OwnedFd>,
    meter: Arc<Meter>,
}

impl Metered {
    /// What ends the program that writes this stream.
    pub(crate) fn control(&self) -> &dyn Control {
        &*self.meter.control
    }
}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.meter.exceeded.load(Ordering::Acquire) {
            return Ok(0);
        }
        loop {
            if let Some(over) = &self.over
                && !ready(self.pipe.as_fd(), PollFlags::IN, over.as_fd())
            {
                return Ok(0);
            }
            match self.pipe.read(buffer) {
                Ok(len) => return Ok(self.meter.admit(len)),
                // The end of a terminal.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => return Ok(0),
                // Another reader of the same terminal was quicker.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn collect(stream: Option<Metered>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}
