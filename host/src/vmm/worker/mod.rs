//! A process of its own for each machine of our own.
//!
//! The application that uses ringfence never runs the code that a guest talks to, needs no
//! entitlement of macOS's, and cannot be brought down by a fault in it. A worker is the `ringfence`
//! command started as `ringfence vm-worker …`: its standard input is a socket to its client, its
//! standard output is the guest's console, and what it has to say goes to its standard error.
//!
//! ```text
//! client ──── Connect{port} ───► worker          its streams are passed over the socket, so
//!        ◄─── Ready + stream ───                 that no byte of them takes a detour
//!        ◄─── Connected + stream
//! ```
//! When the socket ends, because the client is done or was killed, the worker ends its guest and
//! itself. When the guest ends, so does the worker, with a [`Status`] that says how.

mod client;
mod program;
mod server;
#[cfg(any(test, target_os = "macos"))]
mod signed;
mod wire;

pub(crate) use program::NoProgram;
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub(crate) use program::is_executable;
pub(crate) use server::serve;
#[cfg(any(test, target_os = "macos"))]
pub(crate) use signed::SignError;

use super::vcpus::End;
use super::{Booted, MachineConfig, MachineError};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Boots a guest in a worker process and waits until it reports itself ready.
///
/// # Errors
/// [`MachineError`]; whatever was started is gone by then.
pub(crate) fn boot(engine: &'static str, config: &MachineConfig) -> Result<Booted, MachineError> {
    let program = program::find()?;
    let start = |program: &Path| client::boot(program, engine, config);
    #[cfg(target_os = "macos")]
    return signed::Copies::of_user()?.start(&program, start);
    #[cfg(not(target_os = "macos"))]
    start(&program)
}

/// The subcommand that makes the `ringfence` command a worker.
pub(crate) const COMMAND: &str = "vm-worker";

/// With this in the environment, a worker tells on standard error what happens until its guest is
/// ready.
pub(crate) const DEBUG: &str = "RINGFENCE_DEBUG";

/// How a worker ended: its exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Its client did not need it any more.
    Stopped = 0,
    /// The guest switched itself off.
    PowerOff = 40,
    /// The guest asked for a reset.
    Reset = 41,
    /// The guest cannot go on.
    Fault = 42,
    /// The guest did not become ready.
    BootTimeout = 43,
    /// There is no machine for the guest.
    NoMachine = 44,
    /// The hypervisor refuses this program: on macOS it lacks the entitlement.
    Denied = 45,
}

impl Status {
    const ALL: [Self; 7] = [
        Self::Stopped,
        Self::PowerOff,
        Self::Reset,
        Self::Fault,
        Self::BootTimeout,
        Self::NoMachine,
        Self::Denied,
    ];

    pub(crate) fn from_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|&status| status as i32 == code)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Stopped => "it was stopped",
            Self::PowerOff => "it powered off",
            Self::Reset => "it rebooted",
            Self::Fault => "it cannot go on",
            Self::BootTimeout => "it was not ready in time",
            Self::NoMachine => "it could not be started",
            Self::Denied => "the hypervisor refuses this program",
        })
    }
}

impl From<&End> for Status {
    fn from(end: &End) -> Self {
        match end {
            End::Stopped => Self::Stopped,
            End::PowerOff => Self::PowerOff,
            End::Reset => Self::Reset,
            End::Fault(_) => Self::Fault,
        }
    }
}

/// What a worker is started with.
#[derive(Debug, PartialEq, Eq)]
struct Job {
    engine: String,
    kernel: PathBuf,
    initramfs: PathBuf,
    rootfs: PathBuf,
    memory: u64,
    cpus: u8,
    boot_timeout: Duration,
    ready_port: u32,
    kernel_args: Vec<String>,
}

impl Job {
    fn new(engine: &str, config: &MachineConfig) -> Self {
        Self {
            engine: engine.into(),
            kernel: config.kernel.clone(),
            initramfs: config.initramfs.clone(),
            rootfs: config.rootfs.clone(),
            memory: config.memory,
            cpus: config.cpus,
            boot_timeout: config.boot_timeout,
            ready_port: config.ready_port,
            kernel_args: config.kernel_args.clone(),
        }
    }

    /// As arguments of the command, in a fixed order: nobody but [`parse`](Self::parse) reads them.
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![
            COMMAND.into(),
            self.engine.clone().into(),
            self.kernel.clone().into(),
            self.initramfs.clone().into(),
            self.rootfs.clone().into(),
            self.memory.to_string().into(),
            self.cpus.to_string().into(),
            self.boot_timeout.as_millis().to_string().into(),
            self.ready_port.to_string().into(),
        ];
        arguments.extend(self.kernel_args.iter().map(OsString::from));
        arguments
    }

    /// From what follows the subcommand. `None` when somebody else typed it.
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        fn number<T: std::str::FromStr>(argument: Option<OsString>) -> Option<T> {
            argument?.to_str()?.parse().ok()
        }
        Some(Self {
            engine: arguments.next()?.into_string().ok()?,
            kernel: arguments.next()?.into(),
            initramfs: arguments.next()?.into(),
            rootfs: arguments.next()?.into(),
            memory: number(arguments.next())?,
            cpus: number(arguments.next())?,
            boot_timeout: Duration::from_millis(number(arguments.next())?),
            ready_port: number(arguments.next())?,
            kernel_args: arguments
                .map(|argument| argument.into_string().ok())
                .collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_survives_the_command_line() {
        let job = Job {
            engine: "kvm".into(),
            kernel: "/a b/Image".into(),
            initramfs: "/i".into(),
            rootfs: "-r".into(),
            memory: 1 << 40,
            cpus: 8,
            boot_timeout: Duration::from_secs(60),
            ready_port: 1024,
            kernel_args: vec!["one".into(), "two=3".into()],
        };
        let arguments = job.arguments();
        assert_eq!(arguments[0], COMMAND);
        assert_eq!(Job::parse(arguments.into_iter().skip(1)), Some(job));
        assert_eq!(Job::parse(["kvm".into()].into_iter()), None);
        assert_eq!(Job::parse(std::iter::empty()), None);
    }

    #[test]
    fn statuses_come_back() {
        for status in Status::ALL {
            assert_eq!(Status::from_code(status as i32), Some(status));
        }
        assert_eq!(Status::from_code(1), None);
    }
}
