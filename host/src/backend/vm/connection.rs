//! Frames over a connection to the agent.
//!
//! The agent may have been taken over: every read has a deadline, also in the middle of a frame,
//! and a frame's length is checked before its bytes are awaited.

use crate::Error;
use ringfence_protocol::Hello;
use ringfence_protocol::frame::{self, FrameError, HEADER};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Until when an answer is awaited. It can be brought forward from another thread.
#[derive(Debug)]
pub(super) struct Deadline {
    at: Mutex<Option<Instant>>,
    wake: PipeWriter,
}

impl Deadline {
    /// A deadline, and the pipe by which a reader learns that it has changed.
    pub(super) fn new(after: Option<Duration>) -> io::Result<(Self, PipeReader)> {
        let (changed, wake) = io::pipe()?;
        // A deadline beyond what the clock can express is none.
        let at = after.and_then(|after| Instant::now().checked_add(after));
        Ok((
            Self {
                at: Mutex::new(at),
                wake,
            },
            changed,
        ))
    }

    /// From now on waits end after this much time, or earlier if they would have anyway.
    pub(super) fn bring_forward(&self, after: Duration) {
        let new = Instant::now().checked_add(after);
        {
            let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
            *at = match (*at, new) {
                (Some(old), Some(new)) => Some(old.min(new)),
                (old, new) => old.or(new),
            };
        }
        // The reader may have gone already.
        drop((&self.wake).write(&[0]));
    }

    /// Puts a new deadline in place of the old one.
    pub(super) fn reset(&self, after: Option<Duration>) {
        let new = after.and_then(|after| Instant::now().checked_add(after));
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = new;
    }

    /// What is left of the time; nothing where there is no deadline.
    pub(super) fn remaining(&self) -> Option<Duration> {
        let at = *self.at.lock().unwrap_or_else(PoisonError::into_inner);
        at.map(|at| at.saturating_duration_since(Instant::now()))
    }
}

/// A stream whose reads end at a deadline with [`io::ErrorKind::TimedOut`].
#[derive(Debug)]
struct Timed {
    stream: UnixStream,
    changed: PipeReader,
    deadline: std::sync::Arc<Deadline>,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let remaining = self.deadline.remaining();
            // Also when there is always something to read.
            if remaining == Some(Duration::ZERO) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let timeout = remaining.map(Timespec::try_from).transpose();
            // Too far away for the kernel's clock: no deadline.
            let timeout = timeout.unwrap_or(None);
            let mut fds = [
                PollFd::new(&self.stream, PollFlags::IN),
                PollFd::new(&self.changed, PollFlags::IN),
            ];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let [stream, changed] = fds.map(|fd| !fd.revents().is_empty());
            if changed {
                let mut byte = [0];
                self.changed.read_exact(&mut byte)?;
            }
            if stream {
                return self.stream.read(buffer);
            }
        }
    }
}

/// The receiving half of a connection.
#[derive(Debug)]
pub(super) struct Receiver {
    stream: BufReader<Timed>,
    body: Vec<u8>,
}

impl Receiver {
    /// The next message; `None` when the connection ended between two frames.
    pub(super) fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ReceiveError> {
        let mut header = [0; HEADER];
        match self.stream.read(&mut header)? {
            0 => return Ok(None),
            len => self
                .stream
                .read_exact(header.get_mut(len..).unwrap_or_default())?,
        }
        let len = frame::body_len(header)?;
        self.body.resize(len, 0);
        self.stream.read_exact(&mut self.body)?;
        Ok(Some(frame::decode(&self.body)?))
    }
}

/// The sending half of a connection.
#[derive(Debug)]
pub(super) struct Sender {
    stream: UnixStream,
    frame: Vec<u8>,
}

impl Sender {
    pub(super) fn send<T: Serialize>(&mut self, message: &T) -> Result<(), ReceiveError> {
        frame::encode_into(message, &mut self.frame)?;
        self.stream.write_all(&self.frame)?;
        Ok(())
    }
}

/// Why a message could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReceiveError {
    #[error("the connection to the agent broke: {0}")]
    Io(#[from] io::Error),
    #[error("the agent broke the protocol: {0}")]
    Frame(#[from] FrameError),
}

impl ReceiveError {
    pub(super) fn is_timeout(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::TimedOut)
    }
}

impl From<ReceiveError> for Error {
    fn from(error: ReceiveError) -> Self {
        Self::Agent {
            message: error.to_string(),
        }
    }
}

/// A message that makes no sense where it came.
pub(super) fn unexpected() -> Error {
    Error::Agent {
        message: "the agent broke the protocol: an answer out of turn".into(),
    }
}

/// Opens a connection: greets the agent and checks its greeting.
pub(super) fn open(
    stream: UnixStream,
    patience: Duration,
) -> Result<(Sender, Receiver, std::sync::Arc<Deadline>), Error> {
    let prepare = Error::system("cannot prepare a connection to the agent");
    let (deadline, changed) = Deadline::new(Some(patience)).map_err(prepare)?;
    let deadline = std::sync::Arc::new(deadline);
    let prepare = Error::system("cannot prepare a connection to the agent");
    let mut sender = Sender {
        stream: stream.try_clone().map_err(prepare)?,
        frame: Vec::new(),
    };
    let timed = Timed {
        stream,
        changed,
        deadline: std::sync::Arc::clone(&deadline),
    };
    let mut receiver = Receiver {
        stream: BufReader::new(timed),
        body: Vec::new(),
    };
    // An agent that refuses may have hung up already: its greeting says why.
    let sent = sender.send(&Hello::ours());
    let Some(hello) = receiver.receive::<Hello>()? else {
        return Err(Error::Agent {
            message: "the agent hung up without a greeting".into(),
        });
    };
    hello.check().map_err(|error| Error::Agent {
        message: error.to_string(),
    })?;
    sent?;
    Ok((sender, receiver, deadline))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_protocol::{FromAgent, VERSION};
    use std::thread;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Plays an agent that sends these bytes and hangs up.
    fn agent(bytes: Vec<u8>) -> UnixStream {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            theirs.write_all(&bytes)?;
            theirs.shutdown(std::net::Shutdown::Write)?;
            io::copy(&mut theirs, &mut io::sink())
        });
        ours
    }

    fn greeting() -> Vec<u8> {
        frame::encode(&Hello::ours()).unwrap()
    }

    #[test]
    fn another_version_is_refused_in_words() {
        let hello = Hello {
            version: VERSION + 1,
            ..Hello::ours()
        };
        let error = open(agent(frame::encode(&hello).unwrap()), PATIENCE).unwrap_err();
        assert!(error.to_string().contains("protocol version"), "{error}");
        let error = open(agent(b"SSH-2.0-".to_vec()), PATIENCE).unwrap_err();
        assert!(error.to_string().contains("broke the protocol"), "{error}");
        assert!(
            open(agent(vec![]), PATIENCE)
                .unwrap_err()
                .to_string()
                .contains("hung up")
        );
    }

    #[test]
    fn truncated_and_giant_frames_are_errors() {
        for (tail, expected) in [
            (vec![0xff; 4], "4294967295 bytes is above the limit"),
            (vec![9, 0, 0, 0, 1], "connection to the agent broke"),
            (vec![9, 0], "connection to the agent broke"),
            (vec![1, 0, 0, 0, 0xee], "not a valid message"),
        ] {
            let bytes = [greeting(), tail].concat();
            let (_sender, mut receiver, _) = open(agent(bytes), PATIENCE).unwrap();
            let error = receiver.receive::<FromAgent>().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_stalled_frame_ends_at_the_deadline() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs
            .write_all(&[greeting(), vec![9, 0, 0, 0, 1]].concat())
            .unwrap();
        let (_sender, mut receiver, deadline) = open(ours, PATIENCE).unwrap();
        deadline.reset(None);
        let reader = thread::spawn(move || receiver.receive::<FromAgent>());
        deadline.bring_forward(Duration::from_millis(1));
        assert!(reader.join().unwrap().unwrap_err().is_timeout());
    }
}
