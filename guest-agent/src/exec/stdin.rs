//! Standard input on its way from the connection to the program.

use super::failure::End;
use super::output::Outbox;
use ringfence_protocol::{FromAgent, STDIN_WINDOW};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::io::AsyncWrite;
use tokio::net::unix::pipe;
use tokio::sync::Notify;

/// Taken bytes are acknowledged at the latest when they are this many, so that the host's window
/// opens again long before it is used up.
const ACKNOWLEDGE: usize = STDIN_WINDOW / 4;

/// What the host sent and the program has not taken. Never more than [`STDIN_WINDOW`] bytes.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    bytes: VecDeque<u8>,
    /// Taken from `bytes`, but not acknowledged yet.
    unacknowledged: usize,
    ended: bool,
}

/// What became of an attempt to hand bytes on.
enum Taken {
    /// Bytes went, or were dropped; so many are to be acknowledged now.
    Some(usize),
    /// There is nothing to hand on.
    Empty,
    /// There is nothing, and nothing will come.
    Ended,
    /// The pipe is full.
    Full,
    /// The program closed its input.
    Closed,
}

impl Queue {
    /// Takes a message of standard input from the host.
    pub(super) fn push(&self, data: &[u8]) -> Result<(), End> {
        let mut state = self.state();
        if state.ended {
            return Err(End::invalid("standard input came after its end"));
        }
        let waiting = state.bytes.len().saturating_add(state.unacknowledged);
        if waiting.saturating_add(data.len()) > STDIN_WINDOW {
            return Err(End::invalid(format!(
                "{} bytes of standard input on top of {waiting} exceed the window of {STDIN_WINDOW}",
                data.len()
            )));
        }
        state.bytes.extend(data);
        self.changed.notify_one();
        Ok(())
    }

    /// No more will come.
    pub(super) fn end(&self) {
        self.state().ended = true;
        self.changed.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the next bytes to `take`, which says how many it took.
    fn take(&self, take: impl FnOnce(&[u8]) -> io::Result<usize>) -> Taken {
        let mut state = self.state();
        let (front, _wrapped) = state.bytes.as_slices();
        if front.is_empty() {
            return if state.ended {
                Taken::Ended
            } else {
                Taken::Empty
            };
        }
        match take(front) {
            Ok(count) => {
                let count = count.min(front.len());
                state.bytes.drain(..count);
                state.unacknowledged = state.unacknowledged.saturating_add(count);
                if state.bytes.is_empty() || state.unacknowledged >= ACKNOWLEDGE {
                    return Taken::Some(std::mem::take(&mut state.unacknowledged));
                }
                Taken::Some(0)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Taken::Full,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Taken::Some(0),
            // EPIPE; whatever else a pipe could say means the same to its writer.
            Err(_) => Taken::Closed,
        }
    }
}

/// Hands standard input to the program until it ends. What comes after the program closed its input
/// is dropped. Returns early only with an error of the connection.
pub(super) async fn pump<W: AsyncWrite + Unpin>(
    queue: &Queue,
    pipe: pipe::Sender,
    outbox: &Outbox<'_, W>,
) -> Result<(), End> {
    let mut pipe = Some(pipe);
    loop {
        if let Some(open) = &pipe
            && open.writable().await.is_err()
        {
            pipe = None;
        }
        let taken = queue.take(|bytes| match &pipe {
            Some(open) => open.try_write(bytes),
            None => Ok(bytes.len()),
        });
        match taken {
            Taken::Some(0) => {}
            Taken::Full => {
                // A terminal that is closed may still be full, and counts as ready for ever.
                if pipe.as_ref().is_some_and(is_closed) {
                    pipe = None;
                }
                // Whatever the kernel says of readiness, others have their turn.
                tokio::task::yield_now().await;
            }
            Taken::Some(count) => {
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                outbox.send(&FromAgent::StdinTaken(count)).await?;
            }
            Taken::Empty => queue.changed.notified().await,
            Taken::Ended => return Ok(()),
            Taken::Closed => pipe = None,
        }
    }
}

/// Whether nobody can read any more.
fn is_closed(pipe: &pipe::Sender) -> bool {
    let mut fds = [PollFd::new(pipe, PollFlags::OUT)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&now)).is_ok_and(|_| {
        let [fd] = &fds;
        fd.revents().intersects(PollFlags::HUP | PollFlags::ERR)
    })
}
