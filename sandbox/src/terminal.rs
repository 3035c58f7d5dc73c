//! A terminal of the program's own.
//!
//! It is a pair, whose one side the program has as its standard streams and as its controlling
//! terminal: of the sandbox's own `devpts` where the program has a private root, and of the host's
//! elsewhere. What the program can do to a terminal ends there: the caller's own is another one, or
//! none.

use ringfence_protocol::TerminalSize;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The caller's side: what is read is what the program shows, what is written is what is typed.
/// Reading fails with `EIO` once the program's side is closed everywhere.
#[derive(Debug)]
pub struct Terminal(OwnedFd);

impl Terminal {
    /// The caller's and the program's side.
    pub(crate) fn open(size: TerminalSize) -> io::Result<(Self, OwnedFd)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = Self(openpt(flags)?);
        unlockpt(&terminal.0)?;
        // By descriptor: its path may mean another terminal, or nothing.
        let programs = ioctl_tiocgptpeer(&terminal.0, flags)?;
        terminal.resize(size)?;
        Ok((terminal, programs))
    }

    /// Takes one of the sandbox's own for the one of the host.
    pub(crate) fn replace(&mut self, own: OwnedFd) {
        self.0 = own;
    }

    /// From now on nobody waits in a read or a write, whichever copy of the descriptor it is on.
    ///
    /// # Errors
    /// The system's own.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        let flags = fcntl_getfl(&self.0)?;
        Ok(fcntl_setfl(&self.0, flags | OFlags::NONBLOCK)?)
    }

    /// Gives it another size, and tells the program (`SIGWINCH`).
    ///
    /// # Errors
    /// The system's own.
    pub fn resize(&self, size: TerminalSize) -> io::Result<()> {
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(tcsetwinsize(&self.0, size)?)
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
