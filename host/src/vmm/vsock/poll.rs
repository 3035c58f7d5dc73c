//! What the device needs from whatever waits for its sockets, and Linux's way to give it.

use std::io;
use std::os::fd::BorrowedFd;

/// Names one registered socket. Never used twice by a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token(pub(crate) u64);

/// What happened to a socket since it was last heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Readiness {
    /// There may be something to receive, or the end.
    pub(crate) readable: bool,
    /// There may be space to send.
    pub(crate) writable: bool,
    /// Neither direction is open any more.
    pub(crate) hangup: bool,
}

/// Waits for sockets on the device's behalf, edge-triggered: a readiness is told once, and again
/// only after the device ran into "would block" or anew after [`watch_writes`].
///
/// [`watch_writes`]: Poller::watch_writes
pub(crate) trait Poller: Send {
    /// Watches `fd` for input and for hang-up until [`remove`](Self::remove).
    fn add(&self, fd: BorrowedFd<'_>, token: Token) -> io::Result<()>;
    /// Watches `fd` for space to send as well, or no longer. Space that is there already is told.
    fn watch_writes(&self, fd: BorrowedFd<'_>, token: Token, watch: bool) -> io::Result<()>;
    /// Forgets `fd`, which is about to be closed.
    fn remove(&self, fd: BorrowedFd<'_>);
}

#[cfg(target_os = "linux")]
pub(crate) use linux::Epoll;

#[cfg(target_os = "linux")]
mod linux {
    use super::{Poller, Readiness, Token};
    use rustix::event::epoll;
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    /// Sockets told of in one go.
    const BATCH: usize = 64;

    /// An epoll instance. It is itself a file that becomes readable, so that any event loop can
    /// hold a whole device as one entry.
    #[derive(Debug)]
    pub(crate) struct Epoll {
        fd: OwnedFd,
    }

    impl Epoll {
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self {
                fd: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            })
        }

        /// What has happened up to now, without waiting. At most a bounded number at a time; the
        /// file stays readable while there is more.
        pub(crate) fn events(&self) -> io::Result<Vec<(Token, Readiness)>> {
            let mut events = Vec::with_capacity(BATCH);
            let now = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let space = rustix::buffer::spare_capacity(&mut events);
            epoll::wait(&self.fd, space, Some(&now))?;
            Ok(events
                .into_iter()
                .map(|event: epoll::Event| {
                    // Copied out of a packed structure.
                    let (flags, data) = (event.flags, event.data);
                    let has = |flag| flags.intersects(flag);
                    let hangup = has(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
                    let readiness = Readiness {
                        readable: hangup || has(epoll::EventFlags::IN | epoll::EventFlags::RDHUP),
                        writable: hangup || has(epoll::EventFlags::OUT),
                        hangup,
                    };
                    (Token(data.u64()), readiness)
                })
                .collect())
        }
    }

    const READ: epoll::EventFlags = epoll::EventFlags::IN
        .union(epoll::EventFlags::RDHUP)
        .union(epoll::EventFlags::ET);

    impl Poller for Epoll {
        fn add(&self, fd: BorrowedFd<'_>, token: Token) -> io::Result<()> {
            epoll::add(&self.fd, fd, epoll::EventData::new_u64(token.0), READ)?;
            Ok(())
        }

        fn watch_writes(&self, fd: BorrowedFd<'_>, token: Token, watch: bool) -> io::Result<()> {
            let flags = if watch {
                READ.union(epoll::EventFlags::OUT)
            } else {
                READ
            };
            epoll::modify(&self.fd, fd, epoll::EventData::new_u64(token.0), flags)?;
            Ok(())
        }

        fn remove(&self, fd: BorrowedFd<'_>) {
            // It can only be absent, and then there is nothing to do.
            let _ = epoll::delete(&self.fd, fd);
        }
    }

    impl AsFd for Epoll {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.fd.as_fd()
        }
    }
}
