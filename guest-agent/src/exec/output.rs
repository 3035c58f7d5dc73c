//! What the agent sends while the program runs.

use super::failure::End;
use crate::frame_io::{FrameWriter, WriteError};
use ringfence_protocol::{ByteBuf, CHUNK, FromAgent};
use ringfence_sandbox::{Ended, Killer};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use std::io;
use std::sync::{Mutex as BriefMutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::sync::{Mutex, watch};

/// The connection's sending side, shared by the streams, which take turns frame by frame.
#[derive(Debug)]
pub(super) struct Outbox<'a, W>(Mutex<&'a mut FrameWriter<W>>);

impl<'a, W: AsyncWrite + Unpin> Outbox<'a, W> {
    pub(super) fn new(writer: &'a mut FrameWriter<W>) -> Self {
        Self(Mutex::new(writer))
    }

    pub(super) async fn send(&self, message: &FromAgent) -> Result<(), WriteError> {
        self.0.lock().await.send(message).await
    }
}

/// How much the program may still write, on both streams together.
#[derive(Debug)]
pub(super) struct Budget(BriefMutex<(u64, bool)>);

impl Budget {
    pub(super) const fn new(limit: Option<u64>) -> Self {
        let limit = match limit {
            Some(limit) => limit,
            None => u64::MAX,
        };
        Self(BriefMutex::new((limit, false)))
    }

    /// How many of `count` bytes may be delivered. Fewer than all of them exhaust the budget.
    fn take(&self, count: usize) -> usize {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, exceeded) = &mut *state;
        let granted = usize::try_from(*left).unwrap_or(usize::MAX).min(count);
        *left = left.saturating_sub(u64::try_from(granted).unwrap_or(u64::MAX));
        *exceeded |= granted < count;
        granted
    }

    /// Whether the program wrote more than it may.
    pub(super) fn exceeded(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}

/// One of the program's output streams.
#[derive(Debug)]
pub(super) struct Stream<'a, 'w, W> {
    pub(super) pipe: pipe::Receiver,
    pub(super) wrap: fn(ByteBuf) -> FromAgent,
    pub(super) outbox: &'a Outbox<'w, W>,
    pub(super) budget: &'a Budget,
    pub(super) killer: &'a Killer,
    /// Becomes true, or is dropped, when everything of the execution is dead.
    pub(super) dead: watch::Receiver<bool>,
}

impl<W: AsyncWrite + Unpin> Stream<'_, '_, W> {
    /// Delivers the stream to its end, which is the pipe's or, should somebody else hold the pipe
    /// open, what was in it when everything of the execution was dead.
    pub(super) async fn pump(mut self) -> Result<(), End> {
        let mut chunk = Vec::with_capacity(CHUNK);
        loop {
            let read = tokio::select! {
                biased;
                read = self.pipe.read_buf(&mut chunk) => read,
                _dead = self.dead.wait_for(|dead| *dead) => read_now(&self.pipe, &mut chunk),
            };
            match read {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    let granted = self.budget.take(count);
                    chunk.truncate(granted);
                    if granted < count {
                        self.killer.kill(Ended::OutputExceeded);
                    }
                    if granted > 0 {
                        chunk = self.send(chunk).await?;
                    }
                    if granted < count {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The end of a terminal.
                Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                    return Ok(());
                }
                Err(error) => {
                    self.killer.kill(Ended::Killed);
                    return Err(End::internal(format!(
                        "cannot read the program's output: {error}"
                    )));
                }
            }
        }
    }

    /// Sends a chunk and gives its memory back, empty.
    async fn send(&self, chunk: Vec<u8>) -> Result<Vec<u8>, End> {
        let message = (self.wrap)(ByteBuf::from(chunk));
        if let Err(error) = self.outbox.send(&message).await {
            self.killer.kill(Ended::Killed);
            return Err(error.into());
        }
        let mut chunk = match message {
            FromAgent::Stdout(data) | FromAgent::Stderr(data) => data.into_vec(),
            _ => Vec::with_capacity(CHUNK),
        };
        chunk.clear();
        Ok(chunk)
    }
}

/// What the pipe holds now; nothing when it is empty.
///
/// Past the runtime's notion of readiness, which may lag behind the kernel's.
fn read_now(pipe: &pipe::Receiver, chunk: &mut Vec<u8>) -> io::Result<usize> {
    match rustix::io::read(pipe, spare_capacity(chunk)) {
        Ok(count) => Ok(count),
        Err(Errno::AGAIN | Errno::IO) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
