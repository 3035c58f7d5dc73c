//! The program's streams, as the agent's runtime reads and writes them.

use ringfence_sandbox::{Running, Terminal};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use tokio::net::unix::pipe;

/// Three pipes, or a terminal, which is written to as a pipe is.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) stdin: pipe::Sender,
    pub(super) stdout: pipe::Receiver,
    /// With a terminal there is none.
    pub(super) stderr: Option<pipe::Receiver>,
    pub(super) terminal: Option<Arc<Terminal>>,
}

impl Streams {
    /// Takes them from a program that has started.
    pub(super) fn take(running: &mut Running) -> io::Result<Self> {
        if let Some(terminal) = running.terminal.take() {
            return Self::of_terminal(terminal);
        }
        let missing = || io::Error::other("the sandbox gave none");
        let stdin = running.stdin.take().ok_or_else(missing)?;
        let stdout = running.stdout.take().ok_or_else(missing)?;
        let stderr = running.stderr.take().ok_or_else(missing)?;
        Ok(Self {
            stdin: pipe::Sender::from_owned_fd(OwnedFd::from(stdin))?,
            stdout: pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?,
            stderr: Some(pipe::Receiver::from_owned_fd(OwnedFd::from(stderr))?),
            terminal: None,
        })
    }

    fn of_terminal(terminal: Terminal) -> io::Result<Self> {
        // The runtime does it for pipes by itself.
        terminal.set_nonblocking()?;
        let copy = || terminal.as_fd().try_clone_to_owned();
        Ok(Self {
            stdin: pipe::Sender::from_owned_fd_unchecked(copy()?)?,
            stdout: pipe::Receiver::from_owned_fd_unchecked(copy()?)?,
            stderr: None,
            terminal: Some(Arc::new(terminal)),
        })
    }
}
