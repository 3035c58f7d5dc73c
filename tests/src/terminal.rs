//! A terminal, seen from the side of the person who sits at it.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
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

    /// Whether something is shown within this time.
    fn shows(&self, time: Duration) -> bool {
        let time = Timespec::try_from(time).unwrap();
        let mut fds = [PollFd::new(&self.person, PollFlags::IN)];
        poll(&mut fds, Some(&time)).unwrap() > 0
    }

    /// Reads what is shown until this is.
    ///
    /// # Panics
    /// When it is not shown before the terminal fails, or within a long time.
    pub fn until(&self, mark: &str) -> String {
        let mut shown = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let text = String::from_utf8_lossy(&shown).into_owned();
            if text.contains(mark) {
                return text;
            }
            let ready = self.shows(Duration::from_secs(60));
            assert!(ready, "not shown: {mark:?} but {text:?}");
            match rustix::io::read(&self.person, &mut buffer) {
                Ok(len) => shown.extend_from_slice(&buffer[..len]),
                Err(Errno::INTR) => {}
                Err(error) => panic!("{error}, and not shown: {mark:?} but {text:?}"),
            }
        }
    }

    /// Nothing more is shown for a moment: long enough for what is not kept back.
    ///
    /// # Panics
    /// When something is.
    pub fn assert_silent(&self) {
        if self.shows(Duration::from_millis(300)) {
            let mut shown = [0; 4096];
            let len = rustix::io::read(&self.person, &mut shown).unwrap();
            panic!("shown: {:?}", String::from_utf8_lossy(&shown[..len]));
        }
    }
}
