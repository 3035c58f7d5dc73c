//! An execution under way, and its end.

use crate::{Ended, LayerState, Report, Spec, SpawnError, WaitError};
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;

/// Starts an execution and returns once its `execve` succeeded.
///
/// # Errors
/// [`SpawnError`] with the reason; nothing is left behind then.
pub fn spawn(_spec: Spec) -> Result<Running, SpawnError> {
    Err(SpawnError::Prepare {
        step: "start the sandbox",
        source: io::ErrorKind::Unsupported.into(),
    })
}

/// What this machine can do: each layer, available or missing with the reason and how to get it.
#[must_use]
pub fn probe() -> Vec<LayerState> {
    Vec::new()
}

/// An execution under way. Dropping it kills everything and cleans up.
#[derive(Debug)]
pub struct Running {
    /// Standard input, when it was asked for.
    pub stdin: Option<PipeWriter>,
    /// Standard output.
    pub stdout: Option<PipeReader>,
    /// Standard error.
    pub stderr: Option<PipeReader>,
    killer: Killer,
}

impl Running {
    /// A handle that can end the execution from any thread.
    #[must_use]
    pub fn killer(&self) -> Killer {
        self.killer.clone()
    }

    /// Waits for the end. When it returns, everything is dead and cleaned up. The three streams
    /// that are still in here are closed first.
    ///
    /// # Errors
    /// [`WaitError`] when there is no report; everything has been killed then.
    pub fn wait(self) -> Result<Finished, WaitError> {
        Err(WaitError::SupervisorLost { how: String::new() })
    }
}

/// Ends an execution or sends it signals, from any thread, also while another one waits.
#[derive(Debug, Clone)]
pub struct Killer;

impl Killer {
    /// Kills everything and gives the end this cause. The first cause wins; after the end this
    /// has no effect.
    pub fn kill(&self, _cause: Ended) {}

    /// Sends a signal to the program's first process.
    ///
    /// # Errors
    /// When the signal is not one, or the execution has ended.
    pub fn signal(&self, _signal: i32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// What is left of an execution.
#[derive(Debug)]
pub struct Finished {
    /// What happened, what it cost, and what confined it.
    pub report: Report,
    /// The workspace, when [`Spec::collect`] asked for it: an `O_PATH` directory descriptor. The
    /// workspace goes when this is closed.
    pub workspace: Option<OwnedFd>,
}
