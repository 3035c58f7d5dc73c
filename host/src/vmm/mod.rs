//! The virtual machine monitor: what boots a guest and carries byte streams to and from it.
//!
//! An engine turns a [`MachineConfig`] into a running [`Machine`]. Nothing in this module knows of
//! sandboxes or of the agent's protocol: the caller names the vsock port on which the guest
//! reports that it is ready, gets that connection, and opens further ones.
//!
//! # Life of a machine
//! ```text
//! boot() ──► the guest connects to the ready port ──► Booted ──► stop(), drop, or the guest ends
//!        ├─► the engine's process ends first ───────► MachineError::Exited
//!        └─► the boot time-out passes ──────────────► MachineError::BootTimeout
//! ```
//! Dropping the [`Machine`] kills the guest, joins every thread and closes every stream. Nothing is
//! left behind: no process, no thread, no socket file. If this process is killed instead, the
//! kernel ends the guest's process, and there was no file to begin with.
//!
//! # Trust
//! The guest is hostile. Whatever it says arrives as bytes of a stream or of the console; the
//! first are the caller's to judge, the second are bounded here and stripped of control characters
//! before anybody sees them.

#[cfg_attr(
    not(any(
        test,
        all(target_os = "linux", target_arch = "aarch64"),
        all(target_os = "macos", target_arch = "aarch64")
    )),
    expect(dead_code, reason = "this system has no engine of our own")
)]
mod board;
mod console;
mod devices;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
#[cfg_attr(
    not(any(
        test,
        all(target_os = "macos", target_arch = "aarch64"),
        all(feature = "hvf-over-kvm", target_os = "linux", target_arch = "aarch64")
    )),
    expect(dead_code, reason = "the framework is on Macs only")
)]
mod hvf;
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
mod kvm;
mod machine;
mod process;
#[cfg(target_os = "linux")]
mod qemu;
mod rarely;
mod vcpus;
mod vsock;
mod worker;

pub(crate) use board::layout::{MEMORY_GRANULE, MOST_MEMORY};
#[cfg(target_os = "linux")]
pub(crate) use qemu::{boot as boot_qemu, find as find_qemu};
pub(crate) use worker::{COMMAND as WORKER, DEBUG, serve as work};

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

/// What a guest is made of.
#[derive(Debug)]
pub(crate) struct MachineConfig {
    /// Uncompressed arm64 `Image`.
    pub(crate) kernel: PathBuf,
    /// The initramfs, compressed or not.
    pub(crate) initramfs: PathBuf,
    /// The read-only root file system: the guest's first and only disk.
    pub(crate) rootfs: PathBuf,
    /// Guest memory in bytes, a multiple of 2 MiB.
    pub(crate) memory: u64,
    /// Number of virtual processors.
    pub(crate) cpus: u8,
    /// Gets a copy of the first few MiB of the console.
    pub(crate) console_log: Option<File>,
    /// How long the guest may take until it reports that it is ready.
    pub(crate) boot_timeout: Duration,
    /// vsock port of the host to which the guest connects once it is ready.
    pub(crate) ready_port: u32,
    /// Added to the kernel's command line.
    pub(crate) kernel_args: Vec<String>,
}

/// Boots a guest on an engine of our own, in a worker process.
///
/// # Errors
/// [`MachineError`]; whatever was started is gone by then.
pub(crate) fn boot_own(
    engine: &'static str,
    config: &MachineConfig,
) -> Result<Booted, MachineError> {
    // The worker would say so too, but less well.
    board::layout::Layout::new(config.memory, config.cpus)?;
    worker::boot(engine, config)
}

/// Why there is no KVM for us here.
pub(crate) fn kvm_problem() -> Option<String> {
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    return kvm::probe().err().map(|error| crate::error::chain(&error));
    #[cfg(not(all(target_os = "linux", target_arch = "aarch64")))]
    Some("engine kvm is for Linux on arm64; the guest's processor is one".into())
}

/// Why there is no Hypervisor.framework for us here.
pub(crate) fn hvf_problem() -> Option<String> {
    #[cfg(any(
        all(target_os = "macos", target_arch = "aarch64"),
        all(feature = "hvf-over-kvm", target_os = "linux", target_arch = "aarch64")
    ))]
    return hvf::problem();
    #[cfg(not(any(
        all(target_os = "macos", target_arch = "aarch64"),
        all(feature = "hvf-over-kvm", target_os = "linux", target_arch = "aarch64")
    )))]
    Some("engine hvf is for macOS on Apple silicon".into())
}

/// A guest that has reported itself ready.
pub(crate) struct Booted {
    /// The guest. Ends with its last reference.
    pub(crate) machine: Arc<dyn Machine>,
    /// The guest's connection to the ready port.
    pub(crate) ready: UnixStream,
}

impl std::fmt::Debug for Booted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Booted").finish_non_exhaustive()
    }
}

/// A running guest.
pub(crate) trait Machine: Send + Sync {
    /// Connects to `port` of the guest. Blocks until the guest has accepted or refused, at most for
    /// `timeout`; [`stop`], from any thread, and the guest's end cancel it.
    ///
    /// [`stop`]: Machine::stop
    fn connect(&self, port: u32, timeout: Duration) -> Result<UnixStream, MachineError>;

    /// Kills the guest at once and returns when it is gone. Later calls do nothing.
    fn stop(&self);

    /// How the guest ended, if it has.
    fn exit(&self) -> Option<Exit>;

    /// How the guest ended, for somebody who has seen a stream break. Streams may break a moment
    /// before the end is known; this waits for it, at most for `patience`.
    fn exit_within(&self, patience: Duration) -> Option<Exit>;

    /// The last lines of the console: at most 64 KiB, safe to print.
    fn console_tail(&self) -> String;
}

/// How a guest ended.
#[derive(Debug, Clone)]
pub(crate) struct Exit {
    /// Exit status of the engine's process; `None` where it could not be had.
    pub(crate) status: Option<ExitStatus>,
    /// Whether [`Machine::stop`] asked for it.
    pub(crate) stopped: bool,
    /// Last lines of the engine's error messages, safe to print.
    pub(crate) stderr: String,
    /// Last lines of the console, safe to print.
    pub(crate) console: String,
}

impl Exit {
    /// What the status says of a guest in a worker process.
    fn in_worker(&self) -> Option<worker::Status> {
        worker::Status::from_code(self.status?.code()?)
    }

    /// What engine and guest said last, each below a line of its own.
    fn last_lines(&self) -> String {
        let mut said = String::new();
        for (who, text) in [("engine", &self.stderr), ("console", &self.console)] {
            let text = last_lines(text, 12);
            if !text.is_empty() {
                said.push_str("\n--- ");
                said.push_str(who);
                said.push_str("'s last lines ---\n");
                said.push_str(text);
            }
        }
        said
    }
}

/// What Linux prints when it panics, before it asks for a reset.
const PANIC: &str = "Kernel panic - not syncing";

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.stopped, self.status, self.in_worker()) {
            (true, ..) => f.write_str("it was stopped")?,
            (false, _, Some(worker::Status::Reset)) if self.console.contains(PANIC) => {
                f.write_str("its kernel panicked")?;
            }
            (false, _, Some(status)) => write!(f, "{status}")?,
            (false, Some(status), None) => write!(f, "{status}")?,
            (false, None, None) => f.write_str("its status is unknown")?,
        }
        f.write_str(&self.last_lines())
    }
}

/// At most `count` lines from the end of `text`, without blank lines around them.
fn last_lines(text: &str, count: usize) -> &str {
    let text = text.trim_matches(['\n', ' ']);
    match text.rmatch_indices('\n').nth(count.saturating_sub(1)) {
        Some((at, _)) => text.get(at..).unwrap_or(text).trim_start_matches('\n'),
        None => text,
    }
}

/// Why there is no machine, or no connection to it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum MachineError {
    /// The engine's program is not installed.
    #[error(
        "{program} is not on PATH; install it (Debian and Ubuntu: apt-get install qemu-system-arm, \
         Fedora: dnf install qemu-system-aarch64-core)"
    )]
    #[cfg(target_os = "linux")]
    EngineMissing {
        /// What was looked for.
        program: &'static str,
    },
    /// The program that a machine runs in was not found.
    #[error(transparent)]
    NoWorker(#[from] worker::NoProgram),
    /// There is no program that the hypervisor would serve.
    #[cfg(any(test, target_os = "macos"))]
    #[error(transparent)]
    Sign(#[from] worker::SignError),
    /// No guest can be like this.
    #[error(transparent)]
    Board(#[from] board::BoardError),
    /// A part of the guest cannot be read.
    #[error("cannot read the guest's {part} {}", path.display())]
    #[cfg(target_os = "linux")]
    Part {
        /// Which part.
        part: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A value of the configuration that no engine takes.
    #[error("{what} cannot be {value}; {expected}")]
    #[cfg(target_os = "linux")]
    Config {
        /// Which value.
        what: &'static str,
        /// What it is.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The operating system refused something that the engine needs.
    #[error("cannot {step}")]
    System {
        /// What was being done.
        step: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The vsock device could not be served to the engine.
    #[error("cannot serve the vsock device")]
    #[cfg(target_os = "linux")]
    Device {
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The guest did not report itself ready in time.
    #[error("the guest was not ready after {:.1} s{}", after.as_secs_f64(), exit.last_lines())]
    BootTimeout {
        /// How long it had.
        after: Duration,
        /// How it was ended.
        exit: Box<Exit>,
    },
    /// The guest is gone.
    #[error("the guest has ended: {exit}")]
    Exited {
        /// How it ended.
        exit: Box<Exit>,
    },
    /// Nobody listens on this port of the guest, or the guest refused.
    #[error("the guest refused a connection to port {port}")]
    Refused {
        /// The port.
        port: u32,
    },
    /// A connection could not be made for a reason of this side.
    #[error("cannot connect to port {port} of the guest")]
    Connect {
        /// The port.
        port: u32,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

#[cfg(target_os = "linux")]
impl MachineError {
    fn device(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Device {
            source: Box::new(source),
        }
    }
}
