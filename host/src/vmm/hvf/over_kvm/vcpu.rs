//! One processor: KVM's exits as the framework's.

#![expect(
    unsafe_code,
    reason = "the union of KVM's exits, and a register of the counter's"
)]

use super::instruction::{self, Access};
use super::translation::{self, Regime};
use crate::vmm::devices::Memory;
use crate::vmm::hvf::contract::{Cancel, HvError, HvExit, HvVcpu, Register, SystemRegister};
use crate::vmm::kvm::kick::{self, Signal};
use crate::vmm::kvm::registers::{self, system};
use crate::vmm::vcpus::Kick as _;
use kvm_bindings::{KVM_EXIT_ARM_NISV, KVM_HYPERCALL_EXIT_SMC};
use kvm_ioctls::{VcpuExit, VcpuFd};
use std::sync::Arc;
use vm_memory::{Bytes as _, GuestAddress};

const TTBR0_EL1: u64 = system(3, 0, 2, 0, 0);
const TTBR1_EL1: u64 = system(3, 0, 2, 0, 1);
const TCR_EL1: u64 = system(3, 0, 2, 0, 2);
const SCTLR_EL1: u64 = system(3, 0, 1, 0, 0);
/// The virtual timer's. KVM has the numbers of comparand and counter the wrong way round, and keeps
/// them (`KVM_REG_ARM_TIMER_CVAL`).
const CNTV_CTL: u64 = system(3, 3, 14, 3, 1);
const CNTV_CVAL: u64 = system(3, 3, 14, 0, 2);
const CNTVCT: u64 = system(3, 3, 14, 3, 2);

/// Fields of `ESR_EL2`: Arm ARM DDI 0487, D24.2.40.
const EC_HVC: u64 = 0x16 << 26;
const EC_SMC: u64 = 0x17 << 26;
const EC_DATA_ABORT: u64 = 0x24 << 26;
const IL: u64 = 1 << 25;
const ISV: u64 = 1 << 24;
/// A translation fault of level 3.
const DFSC: u64 = 0b00_0111;
/// The bits of an abort's syndrome that KVM passes on where it cannot describe the access.
const ISS: u64 = (1 << 25) - 1;

const INSTRUCTION: u64 = 4;

/// See the module's documentation.
pub(super) struct OverKvmVcpu {
    fd: VcpuFd,
    memory: Arc<Memory>,
}

/// What an exit of KVM's says that has to be looked at once it is no longer borrowed.
enum Exit {
    Mmio { address: u64, is_write: bool },
    Call { is_smc: bool },
    Undescribed,
    Other(u32),
}

impl OverKvmVcpu {
    /// On the thread that created the processor and has prepared it for kicks.
    pub(super) const fn new(fd: VcpuFd, memory: Arc<Memory>) -> Self {
        Self { fd, memory }
    }

    fn get(&self, id: u64) -> Result<u64, HvError> {
        registers::get(&self.fd, id).map_err(in_call("KVM_GET_ONE_REG"))
    }

    fn set(&self, id: u64, value: u64) -> Result<(), HvError> {
        registers::set(&self.fd, id, value).map_err(in_call("KVM_SET_ONE_REG"))
    }

    /// Finds the access that has just exited, and makes it one that has not happened yet.
    fn data_abort(&mut self, address: u64, is_write: bool) -> Result<HvExit, HvError> {
        let pc = self.get(registers::PC)?;
        let access = self.instruction(pc)?.and_then(instruction::decode);
        // One that contradicts what KVM says was changed since by another processor.
        let access = access.filter(|access| access.write == is_write);
        // Register 31 is the zero register.
        let target = access.map(|access| access.register).filter(|&rt| rt < 31);
        let before = match target {
            Some(rt) => Some((registers::x(rt), self.get(registers::x(rt))?)),
            None => None,
        };
        self.complete()?;
        if let Some((register, value)) = before {
            self.set(register, value)?;
        }
        self.set(registers::PC, pc)?;
        Ok(HvExit::Exception {
            syndrome: syndrome(access, is_write),
            virtual_address: address,
            physical_address: address,
        })
    }

    /// The instruction at an address of the guest's, if there is memory.
    fn instruction(&self, pc: u64) -> Result<Option<u32>, HvError> {
        let regime = Regime {
            sctlr: self.get(SCTLR_EL1)?,
            tcr: self.get(TCR_EL1)?,
            ttbr0: self.get(TTBR0_EL1)?,
            ttbr1: self.get(TTBR1_EL1)?,
        };
        let word = |at| self.memory.read_obj::<u64>(GuestAddress(at)).ok();
        let Some(at) = translation::translate(&regime, pc, word) else {
            return Ok(None);
        };
        Ok(self.memory.read_obj(GuestAddress(at)).ok())
    }

    /// Has KVM end the access that has exited, without letting the guest run.
    fn complete(&mut self) -> Result<(), HvError> {
        self.fd.set_kvm_immediate_exit(1);
        let result = self.fd.run().map(drop);
        self.fd.set_kvm_immediate_exit(0);
        match result {
            // That it returned at once.
            Err(error) if error.errno() == libc::EINTR => Ok(()),
            Err(error) => Err(in_call("KVM_RUN")(error)),
            Ok(()) => Err(HvError {
                call: "KVM_RUN",
                code: 0,
            }),
        }
    }

    /// An access of which the hardware does not say what it was.
    fn undescribed(&mut self) -> HvExit {
        let exits = &self.fd.get_kvm_run().__bindgen_anon_1;
        // SAFETY: the kernel has filled this member, as the exit's reason says; any bytes are one.
        let exit = unsafe { exits.arm_nisv };
        HvExit::Exception {
            syndrome: EC_DATA_ABORT | IL | exit.esr_iss & ISS & !ISV,
            virtual_address: exit.fault_ipa,
            physical_address: exit.fault_ipa,
        }
    }
}

/// What `ESR_EL2` would say of a data abort by such an instruction.
fn syndrome(access: Option<Access>, is_write: bool) -> u64 {
    let abort = EC_DATA_ABORT | IL | DFSC | u64::from(is_write) << 6;
    let Some(access) = access else {
        return abort;
    };
    abort
        | ISV
        | u64::from(access.size) << 22
        | u64::from(access.sign_extend) << 21
        | u64::from(access.register) << 16
        | u64::from(access.wide) << 15
}

fn in_call(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> HvError {
    move |error| HvError {
        call,
        code: error.errno().cast_unsigned(),
    }
}

/// KVM's number of a general register, or of one that goes by a name of its own.
fn general(register: Register) -> u64 {
    match register {
        Register::X(number) => registers::x(number.min(30)),
        Register::Pc => registers::PC,
        Register::Cpsr => registers::PSTATE,
    }
}

const fn special(register: SystemRegister) -> u64 {
    match register {
        SystemRegister::MpidrEl1 => system(3, 0, 0, 0, 5),
        SystemRegister::SctlrEl1 => SCTLR_EL1,
        SystemRegister::IdAa64pfr1El1 => system(3, 0, 0, 4, 1),
        SystemRegister::CntvCtlEl0 => CNTV_CTL,
        SystemRegister::CntvCvalEl0 => CNTV_CVAL,
        SystemRegister::EsrEl1 => system(3, 0, 5, 2, 0),
        SystemRegister::ElrEl1 => registers::ELR_EL1,
        SystemRegister::FarEl1 => system(3, 0, 6, 0, 0),
    }
}

impl HvVcpu for OverKvmVcpu {
    fn run(&mut self) -> Result<HvExit, HvError> {
        let exit = match self.fd.run() {
            Ok(VcpuExit::MmioRead(address, _)) => Exit::Mmio {
                address,
                is_write: false,
            },
            Ok(VcpuExit::MmioWrite(address, _)) => Exit::Mmio {
                address,
                is_write: true,
            },
            Ok(VcpuExit::Hypercall(call)) => Exit::Call {
                is_smc: call.longmode & KVM_HYPERCALL_EXIT_SMC != 0,
            },
            Ok(VcpuExit::Unsupported(KVM_EXIT_ARM_NISV)) => Exit::Undescribed,
            Ok(VcpuExit::Unsupported(reason)) => Exit::Other(reason),
            Ok(_) => Exit::Other(0),
            Err(error) if error.errno() == libc::EINTR => {
                kick::forget();
                return Ok(HvExit::Canceled);
            }
            Err(error) => return Err(in_call("KVM_RUN")(error)),
        };
        match exit {
            Exit::Mmio { address, is_write } => self.data_abort(address, is_write),
            Exit::Call { is_smc } => {
                if is_smc {
                    // KVM is behind it; the hardware is not.
                    let pc = self.get(registers::PC)?;
                    self.set(registers::PC, pc.wrapping_sub(INSTRUCTION))?;
                }
                Ok(HvExit::Exception {
                    syndrome: IL | if is_smc { EC_SMC } else { EC_HVC },
                    virtual_address: 0,
                    physical_address: 0,
                })
            }
            Exit::Undescribed => Ok(self.undescribed()),
            Exit::Other(reason) => Ok(HvExit::Unknown(reason)),
        }
    }

    fn register(&self, register: Register) -> Result<u64, HvError> {
        self.get(general(register))
    }

    fn set_register(&mut self, register: Register, value: u64) -> Result<(), HvError> {
        self.set(general(register), value)
    }

    fn system_register(&self, register: SystemRegister) -> Result<u64, HvError> {
        self.get(special(register))
    }

    fn set_system_register(&mut self, register: SystemRegister, value: u64) -> Result<(), HvError> {
        self.set(special(register), value)
    }

    fn set_vtimer_mask(&mut self, _masked: bool) -> Result<(), HvError> {
        // KVM delivers the timer itself.
        Ok(())
    }

    fn vtimer_offset(&self) -> Result<u64, HvError> {
        // `counter` is the guest's own.
        Ok(0)
    }

    fn set_private_interrupt_pending(&mut self, _intid: u32) -> Result<(), HvError> {
        // Only an exit of the timer's asks for it, and there is none.
        Err(HvError {
            call: "KVM_IRQ_LINE",
            code: libc::EINVAL.cast_unsigned(),
        })
    }

    fn counter(&self) -> u64 {
        self.get(CNTVCT).unwrap_or_default()
    }

    fn counter_frequency(&self) -> u64 {
        let frequency: u64;
        // SAFETY: every program may read this register.
        unsafe {
            std::arch::asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack));
        }
        frequency
    }

    fn canceler(&self) -> Box<dyn Cancel> {
        Box::new(Canceler(Signal::own()))
    }
}

/// Ends a run from another thread.
struct Canceler(Signal);

impl Cancel for Canceler {
    fn cancel(&self) {
        self.0.kick();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syndromes_are_the_hardwares() {
        // ldrsh x3, [x1] and str w0, [x1], as a processor would report them.
        let load = instruction::decode(0x7980_0023);
        assert_eq!(syndrome(load, false), 0x9363_8007);
        let store = instruction::decode(0xb900_0020);
        assert_eq!(syndrome(store, true), 0x9380_0047);
        assert_eq!(syndrome(None, true), 0x9200_0047);
    }
}
