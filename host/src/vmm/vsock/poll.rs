//! What the device needs from whatever waits for its sockets, and the way to give it: `mio`, which
//! is epoll on Linux and kqueue on Macs, edge-triggered both.

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

/// Names one registered socket. Never used twice by a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token(pub(crate) u64);

impl TryFrom<Token> for mio::Token {
    type Error = io::Error;

    fn try_from(token: Token) -> io::Result<Self> {
        // Only a processor of 32 bits could run out of them.
        usize::try_from(token.0).map(Self).map_err(io::Error::other)
    }
}

/// What happened to a socket since it was last heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Readiness {
    /// There may be something to receive, or the end.
    pub(crate) readable: bool,
    /// There may be space to send.
    pub(crate) writable: bool,
    /// Nothing more will arrive than what is there.
    pub(crate) read_closed: bool,
    /// Nothing more can be sent.
    pub(crate) write_closed: bool,
}

/// Waits for sockets on the device's behalf, edge-triggered: a readiness is told once, and again
/// only after the device ran into "would block" or anew after [`watch_writes`].
///
/// A readiness that is told without need does no harm; one that is not told does.
///
/// [`watch_writes`]: Poller::watch_writes
pub(crate) trait Poller: Send {
    /// Watches `fd` for input and for the end of either direction until [`remove`](Self::remove).
    /// A direction that ends is told of at the latest when both have.
    fn add(&self, fd: BorrowedFd<'_>, token: Token) -> io::Result<()>;
    /// Watches `fd` for space to send as well, or no longer. Space that is there already is told.
    fn watch_writes(&self, fd: BorrowedFd<'_>, token: Token, watch: bool) -> io::Result<()>;
    /// Forgets `fd`, which is about to be closed.
    fn remove(&self, fd: BorrowedFd<'_>);
}

/// Sockets told of in one go.
const BATCH: usize = 64;

/// kqueue tells of the end of a direction only who watches that direction, so there both are
/// watched always, at the price of a needless wake-up for every read of a host program's. epoll
/// tells of ends in any case.
const ALWAYS: Interest = if cfg!(target_vendor = "apple") {
    Interest::READABLE.add(Interest::WRITABLE)
} else {
    Interest::READABLE
};

/// Waits by way of the operating system. It is itself a file that becomes readable, so that any
/// event loop can hold a whole device as one entry.
#[derive(Debug)]
pub(crate) struct MioPoller {
    poll: Poll,
    events: Events,
}

impl MioPoller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(BATCH),
        })
    }

    /// What ends a wait from any thread, and is told of as `token`. One per poller.
    pub(crate) fn waker(&self, token: Token) -> io::Result<mio::Waker> {
        mio::Waker::new(self.poll.registry(), token.try_into()?)
    }

    /// What has happened up to now. If that is nothing, waits: for `timeout` at most, for ever
    /// without one. At most a bounded number at a time; the rest is there at the next call.
    pub(crate) fn events(
        &mut self,
        timeout: Option<Duration>,
    ) -> io::Result<Vec<(Token, Readiness)>> {
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => Ok(self.events.iter().map(told).collect()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Watches an eventfd. It need not be read: every write to it is told of.
    #[cfg(target_os = "linux")]
    pub(crate) fn add_kick(
        &self,
        kick: &vmm_sys_util::eventfd::EventFd,
        token: Token,
    ) -> io::Result<()> {
        self.register(kick.as_raw_fd(), token, Interest::READABLE)
    }

    fn register(&self, fd: RawFd, token: Token, interest: Interest) -> io::Result<()> {
        let token = token.try_into()?;
        self.poll
            .registry()
            .register(&mut SourceFd(&fd), token, interest)
    }

    fn reregister(
        &self,
        fd: BorrowedFd<'_>,
        token: mio::Token,
        interest: Interest,
    ) -> io::Result<()> {
        self.poll
            .registry()
            .reregister(&mut SourceFd(&fd.as_raw_fd()), token, interest)
    }
}

fn told(event: &mio::event::Event) -> (Token, Readiness) {
    let error = event.is_error();
    let read_closed = error || event.is_read_closed();
    let write_closed = error || event.is_write_closed();
    let readiness = Readiness {
        readable: read_closed || event.is_readable(),
        writable: write_closed || event.is_writable(),
        read_closed,
        write_closed,
    };
    let mio::Token(token) = event.token();
    // No system has a `usize` that a `u64` cannot hold.
    (Token(u64::try_from(token).unwrap_or(u64::MAX)), readiness)
}

impl Poller for MioPoller {
    fn add(&self, fd: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        self.register(fd.as_raw_fd(), token, ALWAYS)
    }

    fn watch_writes(&self, fd: BorrowedFd<'_>, token: Token, watch: bool) -> io::Result<()> {
        let token = token.try_into()?;
        if !watch {
            return self.reregister(fd, token, ALWAYS);
        }
        if cfg!(target_vendor = "apple") {
            // A new watch looks at once, a changed one need not.
            self.reregister(fd, token, Interest::READABLE)?;
        }
        self.reregister(fd, token, Interest::READABLE.add(Interest::WRITABLE))
    }

    fn remove(&self, fd: BorrowedFd<'_>) {
        // It can only be absent, and then there is nothing to do.
        let _ = self
            .poll
            .registry()
            .deregister(&mut SourceFd(&fd.as_raw_fd()));
    }
}

impl AsRawFd for MioPoller {
    fn as_raw_fd(&self) -> RawFd {
        self.poll.as_raw_fd()
    }
}
