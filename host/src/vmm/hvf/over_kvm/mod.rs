//! Hypervisor.framework's contract for a processor ([`super::contract`]), kept by KVM: so the run
//! loop for Macs boots Linux in the lab, with any number of processors.
//!
//! | the framework | here |
//! |---|---|
//! | data abort at a device's register | KVM's MMIO exit; the instruction is read through the guest's page tables and decoded, the access is undone, and the syndrome is what the hardware would have said |
//! | HVC and SMC of PSCI | KVM's SMCCC filter sends them here |
//! | processors that are off | run by nobody: the loop switches them, KVM knows of none that is off |
//! | `hv_vcpus_exit` | a signal that is admitted while the guest runs |
//! | `hv_gic` | KVM's GICv3, lines without irqfd, notifications without ioeventfd |
//!
//! # What it cannot show
//! WFI and WFE do not exit from KVM, the virtual timer never does, KVM answers accesses to system
//! registers and aborts of instructions itself, and the calls of the framework are not made. The
//! loop's answers to those are tested with a processor that follows a script, the calls by nothing
//! but a Mac.

mod instruction;
mod translation;
mod vcpu;

use super::contract::HvError;
use super::doorbell::Doorbells;
use crate::vmm::board::layout::Layout;
use crate::vmm::devices::bus::Bus;
use crate::vmm::devices::{InterruptLine, Memory};
use crate::vmm::kvm::{self, KvmError, KvmVm};
use crate::vmm::machine::{EngineError, Hypervisor, Start};
use crate::vmm::vcpus::{VcpuThreads, Vcpus};
use kvm_bindings::{
    KVM_ARM_VM_SMCCC_CTRL, KVM_ARM_VM_SMCCC_FILTER, KVM_CAP_ARM_NISV_TO_USER, kvm_device_attr,
    kvm_enable_cap, kvm_smccc_filter, kvm_smccc_filter_action_KVM_SMCCC_FILTER_FWD_TO_USER,
};
use kvm_ioctls::VmFd;
use std::sync::Arc;
use vcpu::OverKvmVcpu;
use vmm_sys_util::eventfd::EventFd;

/// First functions of PSCI's two ranges, and how many each has: Arm DEN 0022, 5.1.
const PSCI: [u32; 2] = [0x8400_0000, 0xc400_0000];
const PSCI_FUNCTIONS: u32 = 32;

/// A virtual machine of KVM's that looks like one of the framework's.
pub(crate) struct OverKvm {
    kvm: Arc<KvmVm>,
    memory: Arc<Memory>,
    doorbells: Arc<Doorbells>,
}

/// Why there is none here.
pub(crate) fn problem() -> Option<String> {
    kvm::probe().err().map(|error| crate::error::chain(&error))
}

impl OverKvm {
    /// A machine with `memory` and an interrupt controller, and no processor yet.
    pub(crate) fn new(layout: &Layout, memory: &Arc<Memory>) -> Result<Self, KvmError> {
        let kvm = KvmVm::new(layout, memory)?;
        for base in PSCI {
            forward_calls(kvm.fd(), base)
                .map_err(KvmError::call("forward the guest's PSCI calls"))?;
        }
        let capability = kvm_enable_cap {
            cap: KVM_CAP_ARM_NISV_TO_USER,
            ..Default::default()
        };
        kvm.fd()
            .enable_cap(&capability)
            .map_err(KvmError::call("report accesses that it cannot describe"))?;
        Ok(Self {
            kvm: Arc::new(kvm),
            memory: Arc::clone(memory),
            doorbells: Doorbells::new(layout.cpus()),
        })
    }
}

/// Has calls of a range of functions come here.
fn forward_calls(vm: &VmFd, base: u32) -> Result<(), kvm_ioctls::Error> {
    let filter = kvm_smccc_filter {
        base,
        nr_functions: PSCI_FUNCTIONS,
        action: u8::try_from(kvm_smccc_filter_action_KVM_SMCCC_FILTER_FWD_TO_USER)
            .unwrap_or_default(),
        ..Default::default()
    };
    vm.set_device_attr(&kvm_device_attr {
        flags: 0,
        group: KVM_ARM_VM_SMCCC_CTRL,
        attr: KVM_ARM_VM_SMCCC_FILTER.into(),
        addr: std::ptr::from_ref(&filter) as u64,
    })
}

impl Hypervisor for OverKvm {
    fn line(&self, intid: u32) -> Arc<dyn InterruptLine> {
        Arc::new(Line {
            line: self.kvm.line(intid),
            doorbells: Arc::clone(&self.doorbells),
        })
    }

    fn notify_by(&self, _address: u64, _queue: u32, _event: &EventFd) -> Result<(), EngineError> {
        // The framework has nothing like it: the write is an exit, and the device hears of it.
        Ok(())
    }

    fn start(
        &self,
        vcpus: &Arc<Vcpus>,
        bus: &Arc<Bus>,
        start: Start,
    ) -> Result<VcpuThreads, EngineError> {
        let (kvm, memory) = (Arc::clone(&self.kvm), Arc::clone(&self.memory));
        let create = move |index| {
            let fd =
                kvm::create_vcpu_fd(kvm.fd(), index, true).map_err(in_call("KVM_CREATE_VCPU"))?;
            kvm::kick::prepare(&fd).map_err(in_call("KVM_SET_SIGNAL_MASK"))?;
            Ok(OverKvmVcpu::new(fd, Arc::clone(&memory)))
        };
        let complete = || Ok(self.kvm.start_gic()?);
        super::start_vcpus(vcpus, bus, start, &self.doorbells, create, complete)
    }
}

/// An error of KVM's as one of the framework's, with the system's number.
fn in_call(call: &'static str) -> impl FnOnce(KvmError) -> HvError {
    move |error| HvError {
        call,
        code: error.code(),
    }
}

/// A line into the interrupt controller that wakes processors which are idle, as on a Mac.
struct Line {
    line: Arc<dyn InterruptLine>,
    doorbells: Arc<Doorbells>,
}

impl InterruptLine for Line {
    fn set(&self, asserted: bool) {
        self.line.set(asserted);
        if asserted {
            self.doorbells.interrupt();
        }
    }
}
