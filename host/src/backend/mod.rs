//! The two ways to run a program behind one small interface.
//!
//! A backend turns a [`Request`] into a [`Session`]: three pipes and a [`Control`]. Everything
//! above (limits on output, pumps, the report) is the same for both.

mod desk;
#[cfg(target_os = "linux")]
mod process;
mod refusals;
mod vm;
mod watch;

use crate::command::Request;
use crate::sandbox::{Config, Inner};
use crate::{Engine, Error, Isolation};
use ringfence_protocol::{Ended, Layer, Report, TerminalSize};
use std::fmt::Debug;
use std::io::{PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::sync::Arc;

#[cfg(target_os = "linux")]
pub(crate) use process::Prewarmed;
pub(crate) use vm::{Machines, engine_states, image_state};

/// The interpreters that wait for code: none, where there is no process isolation.
#[cfg(not(target_os = "linux"))]
#[derive(Debug, Default)]
pub(crate) struct Prewarmed(());

#[cfg(not(target_os = "linux"))]
impl Prewarmed {
    pub(crate) fn new(_config: &Config) -> Result<Self, Error> {
        Ok(Self(()))
    }

    pub(crate) fn wait_until_full(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// A started program.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) stdin: Option<PipeWriter>,
    pub(crate) stdout: PipeReader,
    pub(crate) stderr: PipeReader,
    /// Readable once everything of the program is dead, should its streams not end by themselves:
    /// somebody outside may hold them open.
    pub(crate) over: Option<OwnedFd>,
    pub(crate) control: Arc<dyn Control>,
    pub(crate) isolation: Isolation,
    pub(crate) engine: Option<Engine>,
}

/// Ends a program and tells how it ended.
pub(crate) trait Control: Debug + Send + Sync {
    /// Kills the program and everything it started. The first cause wins; no effect after the end.
    fn kill(&self, cause: Ended);

    /// Sends the program a signal. No effect after the end.
    fn signal(&self, signal: u8) -> Result<(), Error>;

    /// Gives the program's terminal another size. No effect after the end.
    fn resize(&self, size: TerminalSize) -> Result<(), Error>;

    /// Waits until everything is gone. Called once.
    fn wait(&self) -> Result<Report, Error>;
}

/// What resizing a program without a terminal gives.
fn no_terminal() -> Error {
    Error::invalid("the program has no terminal that could be resized")
}

/// Whether this system and the chosen isolation can do what the configuration asks for.
pub(crate) fn check(config: &Config) -> Result<(), Error> {
    match config.isolation.resolve() {
        Isolation::Vm => vm::check(config),
        _ if !cfg!(target_os = "linux") => Err(Error::Unsupported {
            what: "process isolation",
            why: "it is made of Linux's Landlock and seccomp; use isolation vm or auto".into(),
        }),
        _ if config.require.contains(&Layer::Vm) => Err(Error::missing_layer(
            Layer::Vm,
            "process isolation has no virtual machine; use isolation vm",
        )),
        _ => Ok(()),
    }
}

impl Inner {
    /// Waits until the interpreters that are kept ready are so.
    pub(crate) fn wait_prewarmed(self: &Arc<Self>) -> Result<(), Error> {
        match self.config.isolation.resolve() {
            Isolation::Vm => vm::wait_prewarmed(self),
            _ => self.prewarmed.wait_until_full(),
        }
    }

    /// Starts a program.
    pub(crate) fn start(self: &Arc<Self>, request: Request) -> Result<Session, Error> {
        match self.config.isolation.resolve() {
            Isolation::Vm => vm::start(self, request),
            #[cfg(target_os = "linux")]
            _ => process::start(&self.config, &self.prewarmed, request),
            #[cfg(not(target_os = "linux"))]
            _ => check(&self.config).and_then(|()| vm::start(self, request)),
        }
    }
}

/// What this machine can do without a VM, layer by layer.
#[cfg(target_os = "linux")]
pub(crate) fn layers() -> Vec<ringfence_protocol::LayerState> {
    ringfence_sandbox::probe()
}

/// What this machine can do without a VM, layer by layer.
#[cfg(not(target_os = "linux"))]
pub(crate) fn layers() -> Vec<ringfence_protocol::LayerState> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::chain;
    use std::error::Error as _;
    use std::io;

    #[test]
    fn a_chain_names_every_cause() {
        let cause = io::Error::from_raw_os_error(2);
        let error = Error::Input {
            path: "/x".into(),
            source: cause,
        };
        assert_eq!(
            chain(&error),
            "cannot read /x: No such file or directory (os error 2)"
        );
        assert!(error.source().is_some());
    }
}
