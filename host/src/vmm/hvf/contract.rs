//! Hypervisor.framework's contract for one virtual processor, and nothing beyond it.
//!
//! The run loop knows the framework by these traits alone, so that it runs over anything that keeps
//! the same rules:
//!
//! * A processor belongs to the thread that created it; every call but [`Cancel::cancel`] is made
//!   there. Processors are created one after the other, in the order of their numbers, after the
//!   interrupt controller: the order is that of the redistributors' frames.
//! * [`HvVcpu::run`] returns for one [`HvExit`] at a time. What the guest's instruction was to do
//!   is done by the caller, before the next run.
//! * After HVC the program counter is behind the instruction already. After SMC, a trapped access
//!   to a system register, WFI, WFE and an abort it is at the instruction.
//! * [`Cancel::cancel`] makes a run in progress return, or the next one if there is none. Another
//!   exit at the same moment may swallow it: whoever cancels first stores why, and the owner looks
//!   before every run.
//! * The interrupt controller is the framework's. Interrupts to the guest and between its
//!   processors, the virtual timer's included, are delivered without an exit. WFI and WFE may exit
//!   or may not.
//! * [`HvExit::VtimerActivated`] should not come with that controller. If it does, the framework
//!   has masked the timer until [`HvVcpu::set_vtimer_mask`] says otherwise.

/// One processor, on the thread that created it.
pub(crate) trait HvVcpu {
    /// `hv_vcpu_run`: lets the guest run until it exits.
    fn run(&mut self) -> Result<HvExit, HvError>;

    /// `hv_vcpu_get_reg`.
    fn register(&self, register: Register) -> Result<u64, HvError>;

    /// `hv_vcpu_set_reg`.
    fn set_register(&mut self, register: Register, value: u64) -> Result<(), HvError>;

    /// `hv_vcpu_get_sys_reg`.
    fn system_register(&self, register: SystemRegister) -> Result<u64, HvError>;

    /// `hv_vcpu_set_sys_reg`.
    fn set_system_register(&mut self, register: SystemRegister, value: u64) -> Result<(), HvError>;

    /// `hv_vcpu_set_vtimer_mask`: whether an expired timer causes no exit.
    fn set_vtimer_mask(&mut self, masked: bool) -> Result<(), HvError>;

    /// `hv_vcpu_get_vtimer_offset`: what the guest's virtual counter lags behind
    /// [`counter`](Self::counter).
    fn vtimer_offset(&self) -> Result<u64, HvError>;

    /// `hv_gic_set_redistributor_reg` of `GICR_ISPENDR0`: makes a private interrupt of this
    /// processor pending.
    fn set_private_interrupt_pending(&mut self, intid: u32) -> Result<(), HvError>;

    /// `mach_absolute_time`, in the units of the guest's counter.
    fn counter(&self) -> u64;

    /// Units of [`counter`](Self::counter) in a second.
    fn counter_frequency(&self) -> u64;

    /// `hv_vcpus_exit` for this processor, from any thread.
    fn canceler(&self) -> Box<dyn Cancel>;
}

/// Interrupts a processor's run from another thread.
pub(crate) trait Cancel: Send + Sync {
    /// See the module's documentation. The processor is there while this is called.
    fn cancel(&self);
}

/// Why a run returned: `hv_vcpu_exit_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HvExit {
    /// Somebody cancelled it.
    Canceled,
    /// The virtual timer expired.
    #[cfg_attr(
        all(
            feature = "hvf-over-kvm",
            target_os = "linux",
            not(any(test, feature = "fuzzing"))
        ),
        expect(dead_code, reason = "KVM keeps the timer to itself")
    )]
    VtimerActivated,
    /// The guest did what the hypervisor does not do for it.
    Exception {
        /// `ESR_EL2`.
        syndrome: u64,
        /// `FAR_EL2`.
        virtual_address: u64,
        /// The guest's physical address.
        physical_address: u64,
    },
    /// A reason that is not known here.
    Unknown(u32),
}

/// A register of `hv_reg_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Register {
    /// A general register, by its number from 0 to 30.
    X(u8),
    /// The program counter.
    Pc,
    /// The processor's state.
    Cpsr,
}

/// A register of `hv_sys_reg_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SystemRegister {
    /// Which processor this is.
    MpidrEl1,
    /// Translation and caches on and off.
    SctlrEl1,
    /// Features, the scalable matrix extension among them.
    IdAa64pfr1El1,
    /// The virtual timer's control.
    CntvCtlEl0,
    /// The virtual timer's comparand.
    CntvCvalEl0,
    /// Why the guest last entered its kernel.
    EsrEl1,
    /// Where it came from.
    ElrEl1,
    /// The address that it was about.
    FarEl1,
}

/// A call of the framework's that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{call} failed with {code:#x} ({}); {}", self.meaning(), self.advice())]
pub(crate) struct HvError {
    /// The function's name.
    pub(crate) call: &'static str,
    /// What it returned, an `hv_return_t`.
    pub(crate) code: u32,
}

impl HvError {
    /// `HV_DENIED`.
    const DENIED: u32 = 0xfae9_4007;

    /// Whether this program lacks the entitlement: another signature may help. `hv_vm_map` uses the
    /// same code for an address that is taken.
    pub(crate) fn is_denied(&self) -> bool {
        self.code == Self::DENIED && self.call != "hv_vm_map"
    }

    /// The code's name and what it says.
    const fn meaning(&self) -> &'static str {
        match self.code {
            0xfae9_4001 => "HV_ERROR",
            0xfae9_4002 => "HV_BUSY",
            0xfae9_4003 => "HV_BAD_ARGUMENT",
            0xfae9_4004 => "HV_ILLEGAL_GUEST_STATE",
            0xfae9_4005 => "HV_NO_RESOURCES",
            0xfae9_4006 => "HV_NO_DEVICE",
            Self::DENIED => "HV_DENIED",
            0xfae9_4008 => "HV_FAULT",
            0xfae9_400f => "HV_UNSUPPORTED",
            _ => "unknown",
        }
    }

    /// What whoever runs this can do.
    fn advice(&self) -> &'static str {
        match self.code {
            0xfae9_4002 => {
                "this process has a virtual machine already and macOS gives it one at a time: stop \
                 that one first"
            }
            0xfae9_4005 => {
                "macOS has no memory or no virtual machine left: stop other virtual machines, or \
                 give this one less memory"
            }
            _ if self.is_denied() => {
                "the program's signature lacks the entitlement com.apple.security.hypervisor: sign \
                 it with codesign --sign - --entitlements"
            }
            0xfae9_4006 | 0xfae9_400f => {
                "this Mac offers no virtualization: it needs Apple silicon with macOS 15 or later, \
                 and inside a virtual machine one that allows nested ones (sysctl kern.hv_support \
                 must say 1)"
            }
            _ => "this is a fault of ringfence or of macOS: please report it with this line",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        for (code, words) in [
            (0xfae9_4001, "report"),
            (0xfae9_4002, "HV_BUSY"),
            (0xfae9_4005, "less memory"),
            (0xfae9_4006, "kern.hv_support"),
            (0xfae9_4007, "codesign"),
            (0xfae9_400f, "macOS 15"),
            (7, "0x7 (unknown)"),
        ] {
            let call = "hv_vm_create";
            let error = HvError { call, code };
            let text = error.to_string();
            assert!(text.starts_with("hv_vm_create failed with 0x"), "{text}");
            assert!(text.contains(words), "{text}");
            assert_eq!(error.is_denied(), code == 0xfae9_4007);
        }
        let (call, code) = ("hv_vm_map", 0xfae9_4007);
        let error = HvError { call, code };
        assert!(!error.is_denied() && error.to_string().contains("report"));
    }
}
