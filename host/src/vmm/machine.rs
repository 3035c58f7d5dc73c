//! A machine of our own: board, devices and processors, on whichever hypervisor there is.
//!
//! ```text
//!   Hypervisor (kvm, hvf) ── lines, processors
//!        │                        │
//!   board: memory, addresses      ├─► bus ─► PL011, virtio-mmio: blk, rng, vsock
//! ```

use super::board::layout::{CONSOLE, Layout, VirtioSlot};
use super::board::{self, BoardError, Loaded};
use super::devices::bus::{Bus, BusError};
use super::devices::pl011::{Output, Pl011};
use super::devices::virtio::VirtioDevice;
use super::devices::virtio::blk::Blk;
use super::devices::virtio::mmio::MmioTransport;
#[cfg(target_os = "linux")]
use super::devices::virtio::mmio::QUEUE_NOTIFY;
use super::devices::virtio::rng::Rng;
use super::devices::{InterruptLine, Memory};
use super::vcpus::{VcpuThreads, Vcpus};
use super::vsock::{self, GuestCid, Vsock, VsockHost};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
#[cfg(target_os = "linux")]
use vmm_sys_util::eventfd::EventFd;

/// What the kernel is told besides what the caller adds. `panic=-1` turns a panic into a reset,
/// which ends the machine.
const KERNEL_ARGS: &str = "console=ttyAMA0 quiet loglevel=3 panic=-1";

/// What an engine gives to a machine. One that exists has mapped the guest's memory and has an
/// interrupt controller.
pub(crate) trait Hypervisor {
    /// The line of an interrupt, by its number in the controller.
    fn line(&self, intid: u32) -> Arc<dyn InterruptLine>;

    /// Signals `event` when the guest writes `queue` to `address`, instead of an exit.
    #[cfg(target_os = "linux")]
    fn notify_by(&self, address: u64, queue: u32, event: &EventFd) -> Result<(), EngineError>;

    /// Creates the processors and lets them run.
    fn start(
        &self,
        vcpus: &Arc<Vcpus>,
        bus: &Arc<Bus>,
        start: Start,
    ) -> Result<VcpuThreads, EngineError>;
}

/// Why a hypervisor gives no machine: its own words.
#[derive(Debug, thiserror::Error)]
#[error("the hypervisor gives no machine")]
pub(crate) struct EngineError {
    source: Box<dyn std::error::Error + Send + Sync>,
    /// Another program might get one, or this one with another signature.
    denied: bool,
}

/// Where the first processor begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    /// Address of the kernel's first instruction.
    pub(crate) entry: u64,
    /// Address of the device tree.
    pub(crate) fdt: u64,
}

/// What a machine is made of.
pub(crate) struct Parts<'a> {
    pub(crate) engine: &'a str,
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
    pub(crate) rootfs: &'a Path,
    pub(crate) memory: u64,
    pub(crate) cpus: u8,
    pub(crate) kernel_args: &'a [String],
    pub(crate) console: Arc<dyn Output>,
}

/// A running machine. The order of the fields is the order in which they end.
pub(crate) struct Running {
    pub(crate) vcpus: Arc<Vcpus>,
    pub(crate) threads: VcpuThreads,
    pub(crate) door: VsockHost,
}

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// This system has no such engine.
    #[error("engine {engine:?} is not one of this system's")]
    NoEngine { engine: String },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Board(#[from] BoardError),
    #[error("cannot place a device")]
    Bus(#[from] BusError),
    #[error("cannot open the guest's disk {}", path.display())]
    Disk {
        path: std::path::PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot listen for the guest")]
    Listen(#[source] io::Error),
    #[error("cannot start the vsock device")]
    Vsock(#[from] vsock::StartError),
    #[cfg(target_os = "linux")]
    #[error("cannot watch a device's rings")]
    Notifier(#[source] io::Error),
}

impl EngineError {
    pub(crate) fn new(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self {
            source: Box::new(source),
            denied: false,
        }
    }

    /// The hypervisor refuses this very program.
    pub(crate) fn denied(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self {
            source: Box::new(source),
            denied: true,
        }
    }
}

impl From<io::Error> for EngineError {
    fn from(error: io::Error) -> Self {
        Self::new(error)
    }
}

impl StartError {
    /// Whether the hypervisor refuses this very program.
    pub(crate) const fn is_denied(&self) -> bool {
        matches!(self, Self::Engine(EngineError { denied: true, .. }))
    }
}

/// Makes a machine and lets it run. `listen` is called before it does, so that a guest finds a
/// listener however quick it is.
pub(crate) fn start<T>(
    parts: &Parts<'_>,
    listen: impl FnOnce(&VsockHost) -> io::Result<T>,
) -> Result<(Running, T), StartError> {
    let mut args = KERNEL_ARGS.to_owned();
    for arg in parts.kernel_args {
        args.push(' ');
        args.push_str(arg);
    }
    let layout = Layout::new(parts.memory, parts.cpus)?;
    let loaded = board::load(layout, parts.kernel, parts.initramfs, &args)?;
    let hypervisor = open(parts.engine, &loaded.layout, &loaded.memory)?;
    let mut devices = Devices {
        bus: Bus::new(),
        hypervisor: &*hypervisor,
        loaded: &loaded,
    };
    let disk = File::open(parts.rootfs).and_then(Blk::new);
    devices.add_console(Arc::clone(&parts.console))?;
    devices.add_virtio(
        VirtioSlot::Blk,
        disk.map_err(|source| StartError::Disk {
            path: parts.rootfs.to_owned(),
            source,
        })?,
    )?;
    devices.add_virtio(VirtioSlot::Rng, Rng::default())?;
    let (vsock, door) = Vsock::start(GuestCid::SOLE)?;
    devices.add_virtio(VirtioSlot::Vsock, vsock)?;
    let bus = Arc::new(devices.bus);
    let vcpus = Vcpus::new(parts.cpus);
    let start = Start {
        entry: loaded.entry,
        fdt: loaded.fdt,
    };
    let listening = listen(&door).map_err(StartError::Listen)?;
    let threads = hypervisor.start(&vcpus, &bus, start)?;
    let running = Running {
        vcpus,
        threads,
        door,
    };
    Ok((running, listening))
}

/// Takes devices, one after the other, and puts each where the board has a place for it.
struct Devices<'a> {
    bus: Bus,
    hypervisor: &'a dyn Hypervisor,
    loaded: &'a Loaded,
}

impl Devices<'_> {
    fn add_console(&mut self, output: Arc<dyn Output>) -> Result<(), StartError> {
        let uart = Pl011::new(output, self.hypervisor.line(CONSOLE.intid));
        self.bus
            .insert("pl011", CONSOLE.address, CONSOLE.size, Arc::new(uart))?;
        Ok(())
    }

    fn add_virtio<D: VirtioDevice + 'static>(
        &mut self,
        slot: VirtioSlot,
        device: D,
    ) -> Result<(), StartError> {
        let place = slot.place();
        let line = self.hypervisor.line(place.intid);
        let transport = MmioTransport::new(device, Arc::clone(&self.loaded.memory), line);
        #[cfg(target_os = "linux")]
        for notifier in transport.notifiers().map_err(StartError::Notifier)? {
            let register = place.address + QUEUE_NOTIFY;
            self.hypervisor
                .notify_by(register, notifier.queue, &notifier.event)?;
        }
        self.bus
            .insert(slot.name(), place.address, place.size, Arc::new(transport))?;
        Ok(())
    }
}

fn open(
    engine: &str,
    layout: &Layout,
    memory: &Arc<Memory>,
) -> Result<Box<dyn Hypervisor>, StartError> {
    match engine {
        #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
        "kvm" => Ok(Box::new(
            super::kvm::KvmVm::new(layout, memory).map_err(EngineError::from)?,
        )),
        #[cfg(any(
            all(target_os = "macos", target_arch = "aarch64"),
            all(feature = "hvf-over-kvm", target_os = "linux", target_arch = "aarch64")
        ))]
        "hvf" => Ok(Box::new(
            super::hvf::HvfVm::new(layout, memory).map_err(EngineError::from)?,
        )),
        _ => {
            let _ = (layout, memory);
            Err(StartError::NoEngine {
                engine: engine.into(),
            })
        }
    }
}
