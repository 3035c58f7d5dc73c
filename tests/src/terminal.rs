//! A terminal, seen from the side of the person who sits at it.

use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

/// A terminal and the side of it that commands get.
#[derive(Debug)]
pub struct Terminal {
    person: OwnedFd,
    commands: OwnedFd,
}

impl Terminal {
    /// A new one of this size.
    ///
    /// # Panics
    /// When there is none to be had.
    #[must_use]
    pub fn open(rows: u16, columns: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let person = openpt(flags).unwrap();
        unlockpt(&person).unwrap();
        let commands = ioctl_tiocgptpeer(&person, flags).unwrap();
        let terminal = Self { person, commands };
        terminal.resize(rows, columns);
        terminal
    }

    pub(crate) const fn commands(&self) -> &OwnedFd {
        &self.commands
    }

    /// Gives it another size.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.person, size).unwrap();
    }

    /// How it treats what is typed, as text to be compared.
    ///
    /// # Panics
    /// When the system refuses.
    #[must_use]
    pub fn settings(&self) -> String {
        let settings: Termios = tcgetattr(&self.commands).unwrap();
        format!("{settings:?}")
    }

    /// Waits until it treats what is typed in another way, as it does when all of it is passed on.
    ///
    /// # Panics
    /// When it does not for a long time.
    pub fn until_changed(&self, settings: &str) {
        let begun = Instant::now();
        while self.settings() == settings {
            assert!(begun.elapsed() < Duration::from_secs(60), "{settings}");
            thread::yield_now();
        }
    }

    /// Types.
    ///
    /// # Panics
    /// When the system refuses.
    pub fn keys(&self, keys: &str) {
        rustix::io::write(&self.person, keys.as_bytes()).unwrap();
    }

    /// Reads what is shown until this is.
    ///
    /// # Panics
    /// When it is not shown before the terminal fails, or within a long time.
    pub fn until(&self, mark: &str) -> String {
        let mut shown = Vec::new();
        let mut buffer = [0; 4096];
        let minute = rustix::event::Timespec {
            tv_sec: 60,
            tv_nsec: 0,
        };
        loop {
            let text = String::from_utf8_lossy(&shown).into_owned();
            if text.contains(mark) {
                return text;
            }
            let flags = rustix::event::PollFlags::IN;
            let mut fds = [rustix::event::PollFd::new(&self.person, flags)];
            let ready = rustix::event::poll(&mut fds, Some(&minute)).unwrap();
            assert!(ready > 0, "not shown: {mark:?} but {text:?}");
            match rustix::io::read(&self.person, &mut buffer) {
                Ok(len) => shown.extend_from_slice(&buffer[..len]),
                Err(Errno::INTR) => {}
                Err(error) => panic!("{error}, and not shown: {mark:?} but {text:?}"),
            }
        }
    }
}
