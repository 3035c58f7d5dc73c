//! The same sandbox inside a VM.
//!
//! A [`Sandbox`](crate::Sandbox) has at most one guest at a time. It boots with the first program
//! and is shared by all of them; when it has ended, for whatever reason, the next program boots a
//! new one.

mod connection;
mod engine;
mod outgoing;
mod request;
mod session;

pub(crate) use engine::states as engine_states;

use super::Session;
use crate::command::Request;
use crate::error::chain;
use crate::sandbox::{Config, Inner};
use crate::vmm::{self, Machine, MachineError};
use crate::{Engine, Error};
use ringfence_image::{Arch, Image};
use ringfence_protocol::{ControlReply, ControlRequest, port};
use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a guest may take from the engine's start to the agent's message. Emulated machines on
/// busy hosts are slow; a guest that fails is noticed at once by its end.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the agent may take to accept a connection and to greet.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a machine's end may take to be known after a stream broke.
const AFTERMATH: Duration = Duration::from_secs(1);

/// Guest memory beyond what the programs may use: kernel, agent and page cache.
const OVERHEAD: u64 = 160 << 20;

/// Guest memory for each interpreter that is kept ready.
const PREWARMED: u64 = 8 << 20;

/// Guest memory where the limits set no bound.
const UNBOUNDED: u64 = 1 << 30;

/// The guest of a sandbox.
#[derive(Debug, Default)]
pub(crate) struct Machines {
    current: Mutex<Option<Arc<Guest>>>,
}

/// A booted guest whose agent has greeted.
pub(super) struct Guest {
    machine: Arc<dyn Machine>,
    engine: Engine,
    /// The agent's announcement; it stays open as long as the agent lives.
    _ready: UnixStream,
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

impl Guest {
    fn connect(&self, port: u32) -> Result<UnixStream, Error> {
        self.machine.connect(port, PATIENCE).map_err(machine_error)
    }

    /// Ends the guest: it has proved to be out of control.
    fn stop(&self) {
        self.machine.stop();
    }

    /// Why a connection ended before its time.
    fn gone(&self) -> Error {
        match self.machine.exit_within(AFTERMATH) {
            Some(exit) => machine_error(MachineError::Exited {
                exit: Box::new(exit),
            }),
            None => Error::Agent {
                message: format!(
                    "the agent ended the connection\n--- console's last lines ---\n{}",
                    self.machine.console_tail()
                ),
            },
        }
    }
}

/// Whether this system can have such a VM.
pub(super) fn check(config: &Config) -> Result<(), Error> {
    if let Some(grant) = config.grants.first() {
        return Err(Error::Unsupported {
            what: "a shared path in a VM",
            why: format!(
                "{} cannot be shared with the guest yet; copy what is needed with --file",
                grant.path.display()
            ),
        });
    }
    let engine = engine::pick(config.engine);
    match engine::problem(engine) {
        Some(why) if config.engine != Engine::Auto => Err(Error::Unsupported {
            what: engine::label(engine),
            why,
        }),
        Some(why) => Err(Error::Unsupported {
            what: "vm isolation",
            why,
        }),
        None => Ok(()),
    }
}

/// Starts a program in the sandbox's guest.
pub(super) fn start(inner: &Arc<Inner>, request: Request) -> Result<Session, Error> {
    session::start(inner.machines.get(&inner.config)?, &inner.config, request)
}

impl Machines {
    fn get(&self, config: &Config) -> Result<Arc<Guest>, Error> {
        // Held while booting: two programs started at once share the guest.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(guest) = current.as_ref()
            && guest.machine.exit().is_none()
        {
            return Ok(Arc::clone(guest));
        }
        // The old one is gone before the new one takes its memory.
        *current = None;
        Ok(Arc::clone(current.insert(Arc::new(boot(config)?))))
    }
}

fn boot(config: &Config) -> Result<Guest, Error> {
    let engine = engine::pick(config.engine);
    let image = find_image(config.image.as_ref())?;
    image.verify()?;
    let console_log = config
        .vm_log
        .as_ref()
        .map(std::fs::File::try_clone)
        .transpose();
    let booted = engine::boot(
        engine,
        vmm::MachineConfig {
            kernel: image.kernel(),
            initramfs: image.initramfs(),
            rootfs: image.rootfs(),
            memory: memory(config),
            cpus: config.limits.processors.unwrap_or(1),
            console_log: console_log.map_err(Error::system("cannot use the console's log file"))?,
            boot_timeout: config.boot_timeout.unwrap_or(BOOT_TIMEOUT),
            ready_port: port::READY,
            kernel_args: debug_args(),
        },
    )
    .map_err(machine_error)?;
    let keep = booted.ready.try_clone();
    let keep = keep.map_err(Error::system("cannot keep the agent's announcement"))?;
    let guest = Guest {
        machine: booted.machine,
        engine,
        _ready: keep,
    };
    match connection::open(booted.ready, PATIENCE).and_then(|_| introduce(&guest, config)) {
        Ok(()) => Ok(guest),
        Err(_) if guest.machine.exit_within(AFTERMATH).is_some() => Err(guest.gone()),
        Err(error) => Err(error),
    }
}

/// Has process 1 of the guest say on the console how long its steps take.
fn debug_args() -> Vec<String> {
    let wanted = std::env::var_os(vmm::DEBUG).is_some();
    let arg = wanted.then(|| format!("{}=1", vmm::DEBUG));
    arg.into_iter().collect()
}

/// Tells the agent what is the same for all executions.
fn introduce(guest: &Guest, config: &Config) -> Result<(), Error> {
    let mut control = Control::open(guest, PATIENCE)?;
    // The guest has no clock that runs while it does not: the host says what time it is. A host
    // before 1970 has no time worth passing on.
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    control.ask(&ControlRequest::SetClock(now))?;
    if let Ok(count @ 1..) = u32::try_from(config.prewarm) {
        let like = Box::new(request::like(config)?);
        control.ask(&ControlRequest::Prewarm { like, count })?;
    }
    Ok(())
}

/// Boots the sandbox's guest, if need be, and waits until its interpreters are ready.
pub(super) fn wait_prewarmed(inner: &Arc<Inner>) -> Result<(), Error> {
    if inner.config.prewarm == 0 {
        return Ok(());
    }
    let guest = inner.machines.get(&inner.config)?;
    let patience = inner.config.boot_timeout.unwrap_or(BOOT_TIMEOUT);
    Control::open(&guest, patience)?.ask(&ControlRequest::AwaitPrewarmed)
}

/// A control connection.
struct Control<'g> {
    guest: &'g Guest,
    sender: connection::Sender,
    receiver: connection::Receiver,
}

impl<'g> Control<'g> {
    /// One that ends after this much time.
    fn open(guest: &'g Guest, patience: Duration) -> Result<Self, Error> {
        let (sender, receiver, _) = connection::open(guest.connect(port::CONTROL)?, patience)?;
        Ok(Self {
            guest,
            sender,
            receiver,
        })
    }

    /// Asks for something to be done.
    fn ask(&mut self, request: &ControlRequest) -> Result<(), Error> {
        self.sender.send(request)?;
        match self.receiver.receive()? {
            Some(ControlReply::Ok) => Ok(()),
            Some(ControlReply::Failed(failure)) => Err(Error::from_failure(failure)),
            Some(_) => Err(connection::unexpected()),
            None => Err(self.guest.gone()),
        }
    }
}

fn find_image(directory: Option<&PathBuf>) -> Result<Image, Error> {
    Ok(match directory {
        Some(directory) => Image::open(directory)?,
        None => Image::find(Arch::Aarch64)?,
    })
}

/// Memory for the guest: what a program may use and what the system in it needs, never more than
/// half of this machine's.
fn memory(config: &Config) -> u64 {
    let prewarmed = u64::try_from(config.prewarm).unwrap_or(u64::MAX);
    let wanted = config
        .limits
        .memory
        .unwrap_or(UNBOUNDED)
        .saturating_add(OVERHEAD)
        .saturating_add(prewarmed.saturating_mul(PREWARMED));
    let most = (physical_memory() / 2).min(vmm::MOST_MEMORY);
    let bytes = wanted.min(most).max(OVERHEAD);
    bytes - bytes % vmm::MEMORY_GRANULE
}

#[cfg(target_os = "linux")]
fn physical_memory() -> u64 {
    let info = rustix::system::sysinfo();
    // Lossless: `unsigned long` has at most 64 bits.
    #[expect(clippy::useless_conversion, reason = "the type depends on the target")]
    u64::from(info.totalram).saturating_mul(u64::from(info.mem_unit))
}

#[cfg(not(target_os = "linux"))]
fn physical_memory() -> u64 {
    // No Mac that runs macOS 15 has less.
    8 << 30
}

fn machine_error(error: MachineError) -> Error {
    Error::Machine {
        message: chain(&error),
    }
}

/// The folder of the image that a VM would boot, or what is wrong with it.
pub(crate) fn image_state() -> Result<PathBuf, String> {
    let verified = Image::find(Arch::Aarch64).and_then(|image| image.verify().map(|()| image));
    verified
        .map(|image| image.directory().to_owned())
        .map_err(|error| chain(&error))
}
