//! Threads that copy between a program's pipes and whatever its streams lead to.

use crate::child::Metered;
use ringfence_protocol::Ended;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Bytes that a pump moves at a time: what a pipe holds.
pub(crate) const BUFFER: usize = 64 << 10;

/// Copies a stream of the program's until it ends. When the reader has gone, the program gets what
/// it would get from a pipe of its own: SIGPIPE.
pub(crate) fn output(mut from: Metered, mut to: Box<dyn Write + Send>) -> io::Result<()> {
    const SIGPIPE: u8 = 13;
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = match from.read(&mut buffer) {
            Ok(0) => return to.flush(),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let chunk = buffer.get(..len).unwrap_or_default();
        match to.write_all(chunk) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                if let Err(error) = from.control().signal(SIGPIPE) {
                    tracing::debug!(%error, "the program could not be told that its reader has gone");
                }
                return Ok(());
            }
            Err(error) => {
                from.control().kill(Ended::Killed);
                return Err(error);
            }
        }
    }
}

/// Feeds standard input from a thread of its own. Dropping it ends the thread, also while it waits
/// for a terminal.
#[derive(Debug)]
pub(crate) struct InputPump {
    cancel: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl InputPump {
    pub(crate) fn of_bytes(bytes: Vec<u8>, mut to: PipeWriter) -> io::Result<Self> {
        // The program need not read its input: a write that fails is no error.
        let thread = thread::Builder::new()
            .name("ringfence-input".into())
            .spawn(move || drop(to.write_all(&bytes)))?;
        Ok(Self {
            cancel: None,
            thread: Some(thread),
        })
    }

    pub(crate) fn of_file(mut from: File, mut to: PipeWriter) -> io::Result<Self> {
        let (cancelled, cancel) = io::pipe()?;
        let thread = thread::Builder::new()
            .name("ringfence-input".into())
            .spawn(move || {
                let mut buffer = vec![0; BUFFER];
                while readable(from.as_fd(), cancelled.as_fd()) {
                    match from.read(&mut buffer) {
                        Ok(0) => break,
                        Ok(len) => {
                            if to.write_all(buffer.get(..len).unwrap_or_default()).is_err() {
                                break;
                            }
                        }
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => {
                            tracing::warn!(%error, "standard input cannot be read");
                            break;
                        }
                    }
                }
            })?;
        Ok(Self {
            cancel: Some(cancel),
            thread: Some(thread),
        })
    }
}

impl Drop for InputPump {
    fn drop(&mut self) {
        drop(self.cancel.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::debug!("the pump of standard input panicked");
        }
    }
}

/// Waits until `from` can be read; false when `cancelled` has been closed first.
pub(crate) fn readable(from: BorrowedFd<'_>, cancelled: BorrowedFd<'_>) -> bool {
    let [_, cancelled] = wait([(from, PollFlags::IN), (cancelled, PollFlags::IN)], None);
    cancelled.is_empty()
}

/// Waits until the stream is ready for this; false when it is not and `over` can be read.
pub(crate) fn ready(stream: BorrowedFd<'_>, flags: PollFlags, over: BorrowedFd<'_>) -> bool {
    let [stream, _] = wait([(stream, flags), (over, PollFlags::IN)], None);
    !stream.is_empty()
}

/// Waits until the stream takes more; false when it does not and `over` can be read, or the time is
/// up.
pub(crate) fn writable(
    stream: BorrowedFd<'_>,
    over: BorrowedFd<'_>,
    time: Option<Duration>,
) -> bool {
    let [stream, _] = wait([(stream, PollFlags::OUT), (over, PollFlags::IN)], time);
    !stream.is_empty()
}

/// What can be done with two: something, unless the time is up or the system refuses to tell.
pub(crate) fn wait(
    fds: [(BorrowedFd<'_>, PollFlags); 2],
    time: Option<Duration>,
) -> [PollFlags; 2] {
    // A time that the system cannot express is none.
    let time = time.and_then(|time| Timespec::try_from(time).ok());
    let mut fds = fds.each_ref().map(|(fd, flags)| PollFd::new(fd, *flags));
    loop {
        match poll(&mut fds, time.as_ref()) {
            Ok(_) => return fds.each_ref().map(PollFd::revents),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot wait for a stream");
                return [PollFlags::empty(), PollFlags::ERR];
            }
        }
    }
}
