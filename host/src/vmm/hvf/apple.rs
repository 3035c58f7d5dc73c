//! [`contract`](super::contract) and [`Hypervisor`] on Hypervisor.framework itself: one call of
//! ours is one of the framework's.
//!
//! A process has at most one virtual machine. It lives as long as its last [`Vm`] reference: those
//! of processors, lines and cancellers. The guest's memory goes after it.

#![expect(
    unsafe_code,
    reason = "hv_vm_map of the guest's memory; the host's clock; the signals of a thread"
)]

use super::contract::{Cancel, HvError, HvExit, HvVcpu, Register, SystemRegister};
use super::doorbell::Doorbells;
use crate::vmm::board::layout::Layout;
use crate::vmm::devices::bus::Bus;
use crate::vmm::devices::{InterruptLine, Memory};
use crate::vmm::machine::{EngineError, Hypervisor, Start};
use crate::vmm::vcpus::{VcpuThreads, Vcpus};
use applevisor::prelude::{
    ExitReason, GicConfig, GicEnabled, GicRedistributorReg, HypervisorError, Reg, SysReg, Vcpu,
    VcpuHandle, VirtualMachine, VirtualMachineConfig, VirtualMachineInstance,
};
use applevisor_sys::{HV_MEMORY_EXEC, HV_MEMORY_READ, HV_MEMORY_WRITE, PAGE_SIZE, hv_vm_map};
use mach2::mach_time::{mach_absolute_time, mach_timebase_info};
use std::ops::Range;
use std::sync::Arc;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

/// Darwin's major version in macOS 15, the first with an interrupt controller.
const DARWIN_OF_MACOS_15: u32 = 24;

/// The first interrupt that is not a processor's own.
const FIRST_SPI: u32 = 32;

/// `X0` to `X30`.
const X: [Reg; 31] = [
    Reg::X0,
    Reg::X1,
    Reg::X2,
    Reg::X3,
    Reg::X4,
    Reg::X5,
    Reg::X6,
    Reg::X7,
    Reg::X8,
    Reg::X9,
    Reg::X10,
    Reg::X11,
    Reg::X12,
    Reg::X13,
    Reg::X14,
    Reg::X15,
    Reg::X16,
    Reg::X17,
    Reg::X18,
    Reg::X19,
    Reg::X20,
    Reg::X21,
    Reg::X22,
    Reg::X23,
    Reg::X24,
    Reg::X25,
    Reg::X26,
    Reg::X27,
    Reg::X28,
    Reg::X29,
    Reg::X30,
];

/// Why the framework gives no machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HvfError {
    /// One of its calls failed.
    #[error(transparent)]
    Call(#[from] HvError),
    /// Part of the interrupt controller has no room where the board has it.
    #[error(
        "the interrupt controller's {part} at {base:#x} has {room:#x} bytes; this macOS wants \
         {size:#x}, aligned to {alignment:#x}: please report it with this line"
    )]
    Controller {
        part: &'static str,
        base: u64,
        room: u64,
        size: usize,
        alignment: usize,
    },
    /// An interrupt that the controller does not have.
    #[error(
        "this macOS has interrupts {first} to {last}, and the machine needs {wanted}: please \
         report it with this line"
    )]
    Interrupts { first: u32, last: u32, wanted: u32 },
    /// More processors than the framework gives.
    #[error("this Mac gives a virtual machine {most} processors, not {wanted}; ask for fewer")]
    Processors { most: u32, wanted: u8 },
    /// More memory than the framework can address.
    #[error(
        "this Mac gives a virtual machine {most} bits of address, not {wanted}; ask for less memory"
    )]
    AddressSpace { most: u32, wanted: u32 },
    /// Memory that does not consist of whole pages.
    #[error(
        "{size:#x} bytes of guest memory at {address:#x} are not whole pages of {PAGE_SIZE} bytes"
    )]
    Pages { address: u64, size: u64 },
}

impl From<HvfError> for EngineError {
    fn from(error: HvfError) -> Self {
        match error {
            HvfError::Call(error) => error.into(),
            other => Self::new(other),
        }
    }
}

/// Names the call that failed.
fn in_call(call: &'static str) -> impl FnOnce(HypervisorError) -> HvError {
    move |error| HvError {
        call,
        code: i32::from(error).cast_unsigned(),
    }
}

/// Why this macOS is too old.
pub(crate) fn problem() -> Option<String> {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let major = release
        .split('.')
        .next()
        .and_then(|major| major.parse().ok());
    match major {
        Some(DARWIN_OF_MACOS_15..) => None,
        _ => Some(format!(
            "engine hvf needs macOS 15 or later; this is Darwin {release}, and macOS 15 is Darwin \
             {DARWIN_OF_MACOS_15}"
        )),
    }
}

/// The process's virtual machine. The order of the fields is the order in which they end.
struct Vm {
    instance: VirtualMachineInstance<GicEnabled>,
    /// Mapped into the guest as long as `instance` lives.
    _memory: Arc<Memory>,
    /// Of the host's clock, which is the guest's counter but for an offset.
    counter_frequency: u64,
}

/// A virtual machine of the framework's.
pub(crate) struct HvfVm {
    vm: Arc<Vm>,
    doorbells: Arc<Doorbells>,
}

impl HvfVm {
    /// A machine with `memory` and an interrupt controller, and no processor yet.
    pub(crate) fn new(layout: &Layout, memory: &Arc<Memory>) -> Result<Self, HvfError> {
        let config = configure(layout)?;
        let gic = place_gic(layout)?;
        let instance = VirtualMachine::with_gic(config, gic)
            .map_err(in_call("hv_vm_create, hv_gic_create"))?;
        // From here on the machine goes before the memory, whatever fails.
        let vm = Vm {
            instance,
            _memory: Arc::clone(memory),
            counter_frequency: counter_frequency(),
        };
        for region in memory.iter() {
            map(region)?;
        }
        Ok(Self {
            vm: Arc::new(vm),
            doorbells: Doorbells::new(layout.cpus()),
        })
    }
}

/// Asks for no more address space than the default, which costs the least, unless it is too small.
fn configure(layout: &Layout) -> Result<VirtualMachineConfig, HvfError> {
    let most = Vcpu::get_max_count().map_err(in_call("hv_vm_get_max_vcpu_count"))?;
    let wanted = layout.cpus();
    if u32::from(wanted) > most {
        return Err(HvfError::Processors { most, wanted });
    }
    let mut config = VirtualMachineConfig::new();
    let default = VirtualMachineConfig::get_default_ipa_size()
        .map_err(in_call("hv_vm_config_get_default_ipa_size"))?;
    let wanted = layout.address_bits();
    if wanted > default {
        let most = VirtualMachineConfig::get_max_ipa_size()
            .map_err(in_call("hv_vm_config_get_max_ipa_size"))?;
        if wanted > most {
            return Err(HvfError::AddressSpace { most, wanted });
        }
        config
            .set_ipa_size(wanted)
            .map_err(in_call("hv_vm_config_set_ipa_size"))?;
    }
    Ok(config)
}

/// The interrupt controller where the board has it. `hv_gic_get_redistributor_region_size` is not
/// asked: it is for the most processors that any machine may have, and who creates fewer uses less.
fn place_gic(layout: &Layout) -> Result<GicConfig, HvfError> {
    let (distributor, redistributors) = (layout.gic_distributor(), layout.gic_redistributors());
    let size = GicConfig::get_distributor_size().map_err(in_call("hv_gic_get_distributor_size"))?;
    let alignment = GicConfig::get_distributor_base_alignment()
        .map_err(in_call("hv_gic_get_distributor_base_alignment"))?;
    check_place("distributor", &distributor, size, alignment)?;
    let size = GicConfig::get_redistributor_size()
        .map_err(in_call("hv_gic_get_redistributor_size"))?
        .saturating_mul(layout.cpus().into());
    let alignment = GicConfig::get_redistributor_base_alignment()
        .map_err(in_call("hv_gic_get_redistributor_base_alignment"))?;
    check_place("redistributors", &redistributors, size, alignment)?;
    let (first, count) =
        GicConfig::get_spi_interrupt_range().map_err(in_call("hv_gic_get_spi_interrupt_range"))?;
    let last = first.saturating_add(count).saturating_sub(1);
    let wanted = layout.interrupts().saturating_sub(1);
    if first > FIRST_SPI || last < wanted {
        return Err(HvfError::Interrupts {
            first,
            last,
            wanted,
        });
    }
    let mut gic = GicConfig::new();
    gic.set_distributor_base(distributor.start)
        .map_err(in_call("hv_gic_config_set_distributor_base"))?;
    gic.set_redistributor_base(redistributors.start)
        .map_err(in_call("hv_gic_config_set_redistributor_base"))?;
    Ok(gic)
}

fn check_place(
    part: &'static str,
    room: &Range<u64>,
    size: usize,
    alignment: usize,
) -> Result<(), HvfError> {
    let (base, length) = (room.start, room.end.saturating_sub(room.start));
    if size as u64 <= length && base.is_multiple_of(alignment as u64) {
        return Ok(());
    }
    Err(HvfError::Controller {
        part,
        base,
        room: length,
        size,
        alignment,
    })
}

/// Gives the guest a part of this process's memory.
fn map(region: &vm_memory::GuestRegionMmap) -> Result<(), HvfError> {
    let (address, size) = (region.start_addr().raw_value(), region.len());
    let pages = HvfError::Pages { address, size };
    let Ok(host) = region.get_host_address(MemoryRegionAddress(0)) else {
        return Err(pages);
    };
    let length = usize::try_from(size).unwrap_or(usize::MAX);
    if ![host as usize, length]
        .iter()
        .all(|value| value.is_multiple_of(PAGE_SIZE))
        || !address.is_multiple_of(PAGE_SIZE as u64)
    {
        return Err(pages);
    }
    let flags = HV_MEMORY_READ | HV_MEMORY_WRITE | HV_MEMORY_EXEC;
    // SAFETY: the area is the whole of a mapping that `Vm` holds for longer than the machine.
    let result = unsafe { hv_vm_map(host.cast_const().cast(), address, length, flags) };
    match result {
        0 => Ok(()),
        code => Err(HvError {
            call: "hv_vm_map",
            code: code.cast_unsigned(),
        }
        .into()),
    }
}

/// What one second is on the host's clock, in the unit of which the guest's counter counts too.
fn counter_frequency() -> u64 {
    let mut base = mach_timebase_info { numer: 1, denom: 1 };
    // SAFETY: it writes the structure, and cannot fail.
    unsafe { mach_timebase_info(&raw mut base) };
    let nanoseconds = u64::from(base.denom).saturating_mul(1_000_000_000);
    nanoseconds
        .checked_div(base.numer.into())
        .unwrap_or(nanoseconds)
}

impl Hypervisor for HvfVm {
    fn line(&self, intid: u32) -> Arc<dyn InterruptLine> {
        Arc::new(Line {
            vm: Arc::clone(&self.vm),
            doorbells: Arc::clone(&self.doorbells),
            intid,
        })
    }

    fn start(
        &self,
        vcpus: &Arc<Vcpus>,
        bus: &Arc<Bus>,
        start: Start,
    ) -> Result<VcpuThreads, EngineError> {
        let vm = Arc::clone(&self.vm);
        let create = move |_| {
            block_signals();
            let vcpu = vm
                .instance
                .vcpu_create()
                .map_err(in_call("hv_vcpu_create"))?;
            let vm = Arc::clone(&vm);
            Ok(AppleVcpu { vcpu, vm })
        };
        super::start_vcpus(vcpus, bus, start, &self.doorbells, create, || Ok(()))
    }
}

/// For the calling thread, which is a processor's: a signal that it got would end its run for a
/// reason that the framework does not tell.
fn block_signals() {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the set is initialized by the first call; the second only reads it. Neither fails on
    // a valid set.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
    }
}

/// A line into the framework's interrupt controller.
struct Line {
    vm: Arc<Vm>,
    doorbells: Arc<Doorbells>,
    intid: u32,
}

impl InterruptLine for Line {
    fn set(&self, asserted: bool) {
        let result = self.vm.instance.gic_set_spi(self.intid, asserted);
        if let Err(error) = result.map_err(in_call("hv_gic_set_spi")) {
            // Only a number that the controller does not have is refused, and ours were checked.
            tracing::error!(%error, intid = self.intid, "hvf: an interrupt was refused");
        }
        if asserted {
            self.doorbells.interrupt();
        }
    }
}

/// A processor of the framework's. The order of the fields is the order in which they end.
struct AppleVcpu {
    vcpu: Vcpu,
    vm: Arc<Vm>,
}

fn general(register: Register, call: &'static str) -> Result<Reg, HvError> {
    match register {
        Register::Pc => Ok(Reg::PC),
        Register::Cpsr => Ok(Reg::CPSR),
        Register::X(number) => {
            let register = X.get(usize::from(number)).copied();
            register.ok_or_else(|| in_call(call)(HypervisorError::BadArgument))
        }
    }
}

const fn system(register: SystemRegister) -> SysReg {
    match register {
        SystemRegister::MpidrEl1 => SysReg::MPIDR_EL1,
        SystemRegister::SctlrEl1 => SysReg::SCTLR_EL1,
        SystemRegister::IdAa64pfr1El1 => SysReg::ID_AA64PFR1_EL1,
        SystemRegister::CntvCtlEl0 => SysReg::CNTV_CTL_EL0,
        SystemRegister::CntvCvalEl0 => SysReg::CNTV_CVAL_EL0,
        SystemRegister::EsrEl1 => SysReg::ESR_EL1,
        SystemRegister::ElrEl1 => SysReg::ELR_EL1,
        SystemRegister::FarEl1 => SysReg::FAR_EL1,
    }
}

impl HvVcpu for AppleVcpu {
    fn run(&mut self) -> Result<HvExit, HvError> {
        self.vcpu.run().map_err(in_call("hv_vcpu_run"))?;
        let exit = self.vcpu.get_exit_info();
        Ok(match exit.reason {
            ExitReason::CANCELED => HvExit::Canceled,
            ExitReason::VTIMER_ACTIVATED => HvExit::VtimerActivated,
            ExitReason::EXCEPTION => HvExit::Exception {
                syndrome: exit.exception.syndrome,
                virtual_address: exit.exception.virtual_address,
                physical_address: exit.exception.physical_address,
            },
            ExitReason::UNKNOWN => HvExit::Unknown(ExitReason::UNKNOWN as u32),
        })
    }

    fn register(&self, register: Register) -> Result<u64, HvError> {
        let call = "hv_vcpu_get_reg";
        let register = general(register, call)?;
        self.vcpu.get_reg(register).map_err(in_call(call))
    }

    fn set_register(&mut self, register: Register, value: u64) -> Result<(), HvError> {
        let call = "hv_vcpu_set_reg";
        let register = general(register, call)?;
        self.vcpu.set_reg(register, value).map_err(in_call(call))
    }

    fn system_register(&self, register: SystemRegister) -> Result<u64, HvError> {
        let value = self.vcpu.get_sys_reg(system(register));
        value.map_err(in_call("hv_vcpu_get_sys_reg"))
    }

    fn set_system_register(&mut self, register: SystemRegister, value: u64) -> Result<(), HvError> {
        let result = self.vcpu.set_sys_reg(system(register), value);
        result.map_err(in_call("hv_vcpu_set_sys_reg"))
    }

    fn set_vtimer_mask(&mut self, masked: bool) -> Result<(), HvError> {
        let result = self.vcpu.set_vtimer_mask(masked);
        result.map_err(in_call("hv_vcpu_set_vtimer_mask"))
    }

    fn vtimer_offset(&self) -> Result<u64, HvError> {
        let offset = self.vcpu.get_vtimer_offset();
        offset.map_err(in_call("hv_vcpu_get_vtimer_offset"))
    }

    fn set_private_interrupt_pending(&mut self, intid: u32) -> Result<(), HvError> {
        let bit = 1_u64.checked_shl(intid).unwrap_or(0);
        let result = self
            .vcpu
            .set_redistributor_reg(GicRedistributorReg::ISPENDR0, bit);
        result.map_err(in_call("hv_gic_set_redistributor_reg"))
    }

    fn counter(&self) -> u64 {
        // SAFETY: it has no preconditions.
        unsafe { mach_absolute_time() }
    }

    fn counter_frequency(&self) -> u64 {
        self.vm.counter_frequency
    }

    fn canceler(&self) -> Box<dyn Cancel> {
        Box::new(Canceler {
            vm: Arc::clone(&self.vm),
            vcpu: self.vcpu.get_handle(),
        })
    }
}

/// Ends a run from another thread.
struct Canceler {
    vm: Arc<Vm>,
    vcpu: VcpuHandle,
}

impl Cancel for Canceler {
    fn cancel(&self) {
        let result = self
            .vm
            .instance
            .vcpus_exit(std::slice::from_ref(&self.vcpu));
        if let Err(error) = result.map_err(in_call("hv_vcpus_exit")) {
            tracing::error!(%error, "hvf: a processor was not interrupted");
        }
    }
}
