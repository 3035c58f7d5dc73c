//! Engine `kvm`: KVM on an arm64 Linux machine, with its GICv3, timers and PSCI.

pub(super) mod kick;
pub(super) mod registers;
mod vcpu;

use super::board::layout::Layout;
use super::devices::bus::Bus;
use super::devices::{InterruptLine, Memory};
use super::machine::{EngineError, Hypervisor, Start};
use super::vcpus::{VcpuThreads, Vcpus};
use kvm_bindings::{
    KVM_ARM_IRQ_TYPE_SHIFT, KVM_ARM_IRQ_TYPE_SPI, KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2,
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL,
    KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION,
    kvm_create_device, kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
    kvm_userspace_memory_region, kvm_vcpu_init,
};
use kvm_ioctls::{DeviceFd, IoEventAddress, Kvm, VcpuFd, VmFd};
use std::io;
use std::sync::Arc;
use vcpu::KvmVcpu;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

/// The device file.
const DEVICE: &str = "/dev/kvm";

/// Why KVM gives no machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KvmError {
    /// The device cannot be opened.
    #[error(
        "cannot open {DEVICE}; it needs a processor with virtualization, a kernel with KVM, and \
         permission (usually membership in the group kvm)"
    )]
    Open {
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A call of KVM's failed.
    #[error("KVM cannot {step}")]
    Call {
        /// What was being done.
        step: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The operating system refused something else.
    #[error("cannot start a processor's thread")]
    Thread(#[from] io::Error),
}

impl From<KvmError> for EngineError {
    fn from(error: KvmError) -> Self {
        Self::new(error)
    }
}

impl KvmError {
    /// The system's number of the cause, or 0.
    #[cfg(feature = "hvf-over-kvm")]
    pub(super) fn code(&self) -> u32 {
        let (Self::Open { source } | Self::Call { source, .. } | Self::Thread(source)) = self;
        source.raw_os_error().unwrap_or_default().cast_unsigned()
    }

    pub(super) fn call<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Call {
            step,
            source: source.into(),
        }
    }
}

/// Whether KVM can be used here.
pub(crate) fn probe() -> Result<(), KvmError> {
    open().map(drop)
}

fn open() -> Result<Kvm, KvmError> {
    Kvm::new().map_err(|error| KvmError::Open {
        source: error.into(),
    })
}

/// A virtual machine of KVM. The order of the fields is the order in which they end.
pub(crate) struct KvmVm {
    gic: DeviceFd,
    vm: Arc<VmFd>,
    /// Mapped into the guest as long as `vm` lives.
    _memory: Arc<Memory>,
}

impl KvmVm {
    /// A machine with `memory` and an interrupt controller, and no processor yet.
    pub(crate) fn new(layout: &Layout, memory: &Arc<Memory>) -> Result<Self, KvmError> {
        let kvm = open()?;
        // 0 is the default of 40 bits, of old kernels; more than the layout needs costs nothing.
        let limit = u32::try_from(kvm.get_host_ipa_limit()).unwrap_or(0);
        let vm = match limit {
            0 => kvm.create_vm(),
            limit => kvm.create_vm_with_ipa_size(limit.min(layout.address_bits())),
        }
        .map_err(KvmError::call("create a machine"))?;
        for (slot, region) in (0..).zip(memory.iter()) {
            map(&vm, slot, region)?;
        }
        let gic = create_gic(&vm, layout)?;
        Ok(Self {
            gic,
            vm: Arc::new(vm),
            _memory: Arc::clone(memory),
        })
    }

    /// The machine itself, for the adapter.
    #[cfg(feature = "hvf-over-kvm")]
    pub(super) const fn fd(&self) -> &Arc<VmFd> {
        &self.vm
    }

    /// Lets the interrupt controller work, when all processors are there.
    pub(super) fn start_gic(&self) -> Result<(), KvmError> {
        let group = KVM_DEV_ARM_VGIC_GRP_CTRL;
        set::<u64>(&self.gic, group, KVM_DEV_ARM_VGIC_CTRL_INIT, None)
            .map_err(KvmError::call("start the interrupt controller"))
    }
}

impl Hypervisor for KvmVm {
    fn line(&self, intid: u32) -> Arc<dyn InterruptLine> {
        Arc::new(Line {
            vm: Arc::clone(&self.vm),
            irq: KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT | intid,
        })
    }

    fn notify_by(&self, address: u64, queue: u32, event: &EventFd) -> Result<(), EngineError> {
        self.vm
            .register_ioevent(event, &IoEventAddress::Mmio(address), queue)
            .map_err(KvmError::call("watch a queue's register"))?;
        Ok(())
    }

    fn start(
        &self,
        vcpus: &Arc<Vcpus>,
        bus: &Arc<Bus>,
        start: Start,
    ) -> Result<VcpuThreads, EngineError> {
        let vm = Arc::clone(&self.vm);
        let bus = Arc::clone(bus);
        let create = move |index| create_vcpu(&vm, index, &bus, start);
        Ok(VcpuThreads::start(vcpus, create, || self.start_gic())?)
    }
}

/// Gives the guest a part of this process's memory.
#[expect(
    unsafe_code,
    reason = "KVM writes to what it is told is the guest's memory"
)]
fn map(vm: &VmFd, slot: u32, region: &vm_memory::GuestRegionMmap) -> Result<(), KvmError> {
    let host = region
        .get_host_address(vm_memory::MemoryRegionAddress(0))
        .map_err(|error| KvmError::call("find the guest's memory")(io::Error::other(error)))?;
    let area = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: region.start_addr().raw_value(),
        memory_size: region.len(),
        userspace_addr: host as u64,
    };
    // SAFETY: the area is the whole of a mapping that `KvmVm` holds for longer than the machine.
    unsafe { vm.set_user_memory_region(area) }.map_err(KvmError::call("map the guest's memory"))
}

fn create_gic(vm: &VmFd, layout: &Layout) -> Result<DeviceFd, KvmError> {
    let mut device = kvm_create_device {
        type_: kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
        fd: 0,
        flags: 0,
    };
    let gic = vm.create_device(&mut device).map_err(KvmError::call(
        "create an interrupt controller of version 3",
    ))?;
    let failed = || KvmError::call("place the interrupt controller");
    let distributor = layout.gic_distributor().start;
    let redistributors = layout.gic_redistributors().start;
    // Count, address and index in one word: the address is a multiple of 64 KiB.
    let region = u64::from(layout.cpus()) << 52 | redistributors;
    let group = KVM_DEV_ARM_VGIC_GRP_ADDR;
    set(&gic, group, KVM_VGIC_V3_ADDR_TYPE_DIST, Some(&distributor)).map_err(failed())?;
    set(
        &gic,
        group,
        KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION,
        Some(&region),
    )
    .map_err(failed())?;
    let interrupts = layout.interrupts();
    set(&gic, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, Some(&interrupts))
        .map_err(KvmError::call("number the interrupts"))?;
    Ok(gic)
}

/// Sets an attribute of a device to a value of the type that the attribute has.
fn set<T>(
    gic: &DeviceFd,
    group: u32,
    attr: u32,
    value: Option<&T>,
) -> Result<(), kvm_ioctls::Error> {
    gic.set_device_attr(&kvm_device_attr {
        flags: 0,
        group,
        attr: attr.into(),
        addr: value.map_or(0, |value| std::ptr::from_ref(value) as u64),
    })
}

fn create_vcpu(vm: &VmFd, index: u8, bus: &Arc<Bus>, start: Start) -> Result<KvmVcpu, KvmError> {
    let fd = create_vcpu_fd(vm, index, index == 0)?;
    if index == 0 {
        // The rest is as a reset leaves it: EL1h, interrupts masked, MMU off.
        for (register, value) in [(registers::PC, start.entry), (registers::x(0), start.fdt)] {
            registers::set(&fd, register, value)
                .map_err(KvmError::call("set a processor's register"))?;
        }
    }
    KvmVcpu::new(index, fd, Arc::clone(bus))
}

/// A processor as after a reset. One that is not on waits for PSCI's `CPU_ON`.
pub(super) fn create_vcpu_fd(vm: &VmFd, index: u8, is_on: bool) -> Result<VcpuFd, KvmError> {
    let fd = vm
        .create_vcpu(index.into())
        .map_err(KvmError::call("create a processor"))?;
    let mut init = kvm_vcpu_init::default();
    vm.get_preferred_target(&mut init)
        .map_err(KvmError::call("choose a processor's model"))?;
    let mut features = 1 << KVM_ARM_VCPU_PSCI_0_2;
    if !is_on {
        features |= 1 << KVM_ARM_VCPU_POWER_OFF;
    }
    init.features[0] |= features;
    fd.vcpu_init(&init)
        .map_err(KvmError::call("initialize a processor"))?;
    Ok(fd)
}

/// A line into the interrupt controller.
struct Line {
    vm: Arc<VmFd>,
    irq: u32,
}

impl InterruptLine for Line {
    fn set(&self, asserted: bool) {
        if let Err(error) = self.vm.set_irq_line(self.irq, asserted) {
            // Only a number that the controller does not have is refused, and ours are constants.
            tracing::error!(%error, irq = self.irq, "kvm: an interrupt was refused");
        }
    }
}
