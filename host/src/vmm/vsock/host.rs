//! The host programs' door to the device: open a connection to the guest, or wait for one.
//!
//! A [`VsockHost`] may be used from any thread. It leaves its wish in a mailbox and wakes the
//! device, which alone owns connections. A wish that the device can no longer fulfil, because it
//! is gone, is answered with [`io::ErrorKind::NotConnected`]; nothing waits for ever.

use super::connection::Opening;
use super::packet::Port;
use super::socket;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Takes a connection that the guest opened. Called on the device's thread, so it must not wait.
pub(crate) type Accept = Box<dyn FnMut(UnixStream) -> Result<(), Refused> + Send>;

/// An [`Accept`] did not want the connection; the guest sees it refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

/// What a host program wants of the device.
pub(super) enum Wish {
    Connect {
        port: Port,
        socket: UnixStream,
        opening: Opening,
    },
    /// The program that holds this ticket no longer waits.
    Cancel {
        ticket: u64,
    },
    Listen {
        port: Port,
        accept: Accept,
    },
    Unlisten {
        port: Port,
    },
}

impl fmt::Debug for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { port, .. } => write!(f, "Connect({port:?})"),
            Self::Cancel { ticket } => write!(f, "Cancel({ticket})"),
            Self::Listen { port, .. } => write!(f, "Listen({port:?})"),
            Self::Unlisten { port } => write!(f, "Unlisten({port:?})"),
        }
    }
}

#[derive(Debug, Default)]
struct Wishes {
    closed: bool,
    queue: VecDeque<Wish>,
}

#[derive(Debug)]
struct Shared {
    wishes: Mutex<Wishes>,
    /// A byte in here wakes the device. Never blocks: a full socket means that it will wake.
    bell: UnixStream,
    tickets: AtomicU64,
}

impl Shared {
    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        // Nothing panics while it holds the lock.
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        // "Would block" is as good as success, and a closed bell means a closed device.
        let _ = (&self.bell).write(&[0]);
    }

    fn wish(&self, wish: Wish) -> io::Result<()> {
        let mut wishes = self.wishes();
        if wishes.closed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        wishes.queue.push_back(wish);
        // Under the lock, while nobody can close the device's end of the bell: a write to a closed
        // one is a signal on systems whose `write` cannot be told otherwise.
        self.ring();
        Ok(())
    }

    fn close(&self) {
        let mut wishes = self.wishes();
        wishes.closed = true;
        let queue = std::mem::take(&mut wishes.queue);
        drop(wishes);
        // Dropping a wish to connect tells its owner, outside of the lock.
        drop(queue);
    }
}

/// Opens streams to the guest. Cheap to clone; all clones speak to the same device.
#[derive(Debug, Clone)]
pub(crate) struct VsockHost {
    shared: Arc<Shared>,
}

impl VsockHost {
    /// Connects to `port` of the guest and waits for its answer, for `timeout` at most. A guest
    /// that has no driver yet answers once it has.
    ///
    /// # Errors
    /// `ConnectionRefused` when the guest says no, `ConnectionReset` when it broke the protocol or
    /// its driver was reset, `NotConnected` when the device is gone or goes, `TimedOut`, `QuotaExceeded` when there are too many connections.
    pub(crate) fn connect(&self, port: u32, timeout: Duration) -> io::Result<UnixStream> {
        let (answer, ticket) = self.request(port)?;
        match answer.recv_timeout(timeout) {
            Ok(result) => result,
            Err(RecvTimeoutError::Disconnected) => Err(io::ErrorKind::NotConnected.into()),
            Err(RecvTimeoutError::Timeout) => {
                // An answer that arrives just now is dropped with its channel.
                self.cancel(ticket)?;
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }

    /// Asks for a connection: where the answer will be, and the ticket to cancel it with.
    pub(super) fn request(&self, port: u32) -> io::Result<(Receiver<io::Result<UnixStream>>, u64)> {
        let port = Port::new(port).ok_or(io::ErrorKind::InvalidInput)?;
        let (socket, stream) = socket::pair()?;
        let (reply, answer) = sync_channel(1);
        let ticket = self.shared.tickets.fetch_add(1, Ordering::Relaxed);
        let opening = Opening {
            stream,
            reply,
            ticket,
        };
        self.shared.wish(Wish::Connect {
            port,
            socket,
            opening,
        })?;
        Ok((answer, ticket))
    }

    /// Nobody waits for the answer any more.
    pub(super) fn cancel(&self, ticket: u64) -> io::Result<()> {
        self.shared.wish(Wish::Cancel { ticket })
    }

    /// Passes connections of the guest to `port` of the host to `accept` until the returned value
    /// is dropped. A second registration of a port replaces the first.
    pub(crate) fn listen(&self, port: u32, accept: Accept) -> io::Result<Listening> {
        let port = Port::new(port).ok_or(io::ErrorKind::InvalidInput)?;
        self.shared.wish(Wish::Listen { port, accept })?;
        Ok(Listening {
            shared: Arc::clone(&self.shared),
            port,
        })
    }
}

/// A registered port. Dropping it closes the port.
#[derive(Debug)]
pub(crate) struct Listening {
    shared: Arc<Shared>,
    port: Port,
}

impl Drop for Listening {
    fn drop(&mut self) {
        // When the device is gone, so is the port.
        let _ = self.shared.wish(Wish::Unlisten { port: self.port });
    }
}

/// The device's side of the mailbox.
#[derive(Debug)]
pub(super) struct Mailbox {
    shared: Arc<Shared>,
    bell: UnixStream,
}

impl Mailbox {
    /// Everything wished for since the last call, and whether the door is closed for good.
    pub(super) fn take(&self) -> (VecDeque<Wish>, bool) {
        let mut sink = [0; 64];
        while matches!((&self.bell).read(&mut sink), Ok(read) if read == sink.len()) {}
        let mut wishes = self.shared.wishes();
        (std::mem::take(&mut wishes.queue), wishes.closed)
    }

    /// Makes the device run again soon.
    #[cfg(target_os = "linux")]
    pub(super) fn ring(&self) {
        self.shared.ring();
    }

    pub(super) fn bell(&self) -> &UnixStream {
        &self.bell
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// A door and its mailbox.
pub(super) fn pair() -> io::Result<(VsockHost, Mailbox)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    let shared = Arc::new(Shared {
        wishes: Mutex::default(),
        bell: ours,
        tickets: AtomicU64::new(0),
    });
    let mailbox = Mailbox {
        shared: Arc::clone(&shared),
        bell: theirs,
    };
    Ok((VsockHost { shared }, mailbox))
}
