//! What is typed at a program's terminal.
//!
//! Who writes to a terminal waits when nobody reads at its other end, and the kernel does not wake
//! him when that is closed. So what the caller types goes through a pipe, and a thread that also
//! watches for the program's end passes it on.

use crate::pump::{BUFFER, ready, wait};
use ringfence_sandbox::Terminal;
use rustix::event::PollFlags;
use std::fs::File;
use std::io::{self, PipeReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::thread::{self, JoinHandle};

/// The thread. It ends with the program, or with the caller's input.
#[derive(Debug)]
pub(super) struct Keys(JoinHandle<()>);

impl Keys {
    /// Passes on what is `typed` until `over` can be read.
    pub(super) fn start(typed: PipeReader, terminal: &Terminal, over: OwnedFd) -> io::Result<Self> {
        // Whoever reads it waits by himself.
        terminal.set_nonblocking()?;
        let terminal = File::from(terminal.as_fd().try_clone_to_owned()?);
        let thread = thread::Builder::new().name("ringfence-keys".into());
        let thread = thread.spawn(move || pass_on(typed, &terminal, &over))?;
        Ok(Self(thread))
    }

    /// The program has ended.
    pub(super) fn end(self) {
        // It does not panic; if it did, nobody reads what is typed.
        let _ = self.0.join();
    }
}

fn pass_on(mut typed: PipeReader, mut terminal: &File, over: &OwnedFd) {
    let mut buffer = vec![0; BUFFER];
    while ready(typed.as_fd(), PollFlags::IN, over.as_fd()) {
        let Ok(len @ 1..) = typed.read(&mut buffer) else {
            return;
        };
        let mut left = buffer.get(..len).unwrap_or_default();
        while !left.is_empty() {
            match terminal.write(left) {
                Ok(count) => left = left.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let fds = [
                        (terminal.as_fd(), PollFlags::OUT),
                        (over.as_fd(), PollFlags::IN),
                    ];
                    let [terminal, over] = wait(fds, None);
                    // A terminal whose other end is closed may still be full.
                    if terminal.contains(PollFlags::HUP) || !over.is_empty() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}
