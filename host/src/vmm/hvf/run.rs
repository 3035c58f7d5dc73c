//! The run loop of one processor: runs the guest, and does what the hypervisor leaves to us.
//!
//! Everything but the framework itself is here, over [`HvVcpu`]. Exits are handled completely
//! before the step ends: registers are written and the program counter is where the guest goes on.

use super::contract::{Cancel, HvError, HvExit, HvVcpu, Register, SystemRegister};
use super::doorbell::Doorbells;
use super::idle::Patience;
use super::psci::{Entry, Outcome, Power, State};
use super::syndrome::{DataAbort, Rt, Syndrome, SystemAccess, Wait};
use super::sysreg::Group;
use crate::vmm::board::layout::affinity;
use crate::vmm::devices::bus::Bus;
use crate::vmm::vcpus::{End, ExitKind, ExitRecord, Kick, Vcpu, Vcpus};
use std::sync::Arc;

/// EL1 with its own stack pointer, all interrupts masked.
const CPSR_AT_RESET: u64 = 0x3c5;
/// `MPIDR_EL1`: this bit reads as one.
const MPIDR_RES1: u64 = 1 << 31;
/// `ID_AA64PFR1_EL1`: the scalable matrix extension. Kernels that find it without the rest of what
/// should come with it die when they switch translation on.
const PFR1_SME: u64 = 0xf << 24;
/// Bits of `CNTV_CTL_EL0`: enabled, masked, expired.
pub(super) const CTL_ENABLE: u64 = 1;
pub(super) const CTL_IMASK: u64 = 1 << 1;
const CTL_ISTATUS: u64 = 1 << 2;
/// The virtual timer's private interrupt, as the device tree says.
const VTIMER_INTID: u32 = 27;
/// Every instruction has this length.
const INSTRUCTION: u64 = 4;
/// What callers get for what is neither PSCI nor its calling convention.
const NOT_SUPPORTED: u64 = u64::MAX;

/// What the processors of a machine share, besides [`Vcpus`].
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) bus: Arc<Bus>,
    pub(super) power: Arc<Power>,
    pub(super) doorbells: Arc<Doorbells>,
}

/// See the module's documentation.
pub(super) struct HvfVcpu<V> {
    pub(super) index: u8,
    pub(super) vcpu: V,
    pub(super) shared: Shared,
    /// Processors that are switched on again begin with this.
    sctlr_at_reset: u64,
    /// Only this processor switches itself off, so that a running one need not ask.
    is_on: bool,
    /// The framework masked the timer and waits for us.
    is_timer_masked: bool,
    pub(super) patience: Patience,
}

impl From<HvError> for End {
    fn from(error: HvError) -> Self {
        Self::Fault(format!("the hypervisor failed: {error}"))
    }
}

impl<V: HvVcpu> HvfVcpu<V> {
    /// On the thread that created `vcpu`. The first processor begins at `entry`, the others wait
    /// until they are switched on.
    pub(super) fn new(
        index: u8,
        mut vcpu: V,
        shared: Shared,
        entry: Entry,
    ) -> Result<Self, HvError> {
        let mpidr = MPIDR_RES1 | u64::from(affinity(index));
        vcpu.set_system_register(SystemRegister::MpidrEl1, mpidr)?;
        let features = vcpu.system_register(SystemRegister::IdAa64pfr1El1)?;
        if features & PFR1_SME != 0 {
            vcpu.set_system_register(SystemRegister::IdAa64pfr1El1, features & !PFR1_SME)?;
        }
        let sctlr_at_reset = vcpu.system_register(SystemRegister::SctlrEl1)?;
        let mut this = Self {
            index,
            vcpu,
            shared,
            sctlr_at_reset,
            is_on: false,
            is_timer_masked: false,
            patience: Patience::default(),
        };
        if index == 0 {
            this.begin(entry)?;
        }
        Ok(this)
    }

    /// As after a reset, at `entry`.
    fn begin(&mut self, entry: Entry) -> Result<(), HvError> {
        let vcpu = &mut self.vcpu;
        vcpu.set_register(Register::Cpsr, CPSR_AT_RESET)?;
        vcpu.set_register(Register::Pc, entry.address)?;
        vcpu.set_register(Register::X(0), entry.context)?;
        vcpu.set_system_register(SystemRegister::SctlrEl1, self.sctlr_at_reset)?;
        vcpu.set_system_register(SystemRegister::CntvCtlEl0, 0)?;
        self.is_on = true;
        Ok(())
    }

    fn handle(&mut self, exit: HvExit, vcpus: &Vcpus) -> Result<(), End> {
        match exit {
            HvExit::Canceled => {
                self.record(vcpus, ExitKind::Kicked, 0);
                // This was it: the next step need not return early as well.
                self.shared.doorbells.take_kick(self.index);
                Ok(())
            }
            HvExit::VtimerActivated => {
                self.record(vcpus, ExitKind::Timer, 0);
                self.is_timer_masked = true;
                Ok(self.vcpu.set_private_interrupt_pending(VTIMER_INTID)?)
            }
            HvExit::Exception {
                syndrome,
                virtual_address,
                physical_address,
            } => match Syndrome::decode(syndrome) {
                Syndrome::Wait(wait) => self.idle(wait, vcpus),
                Syndrome::Hvc(immediate) => self.call(immediate, vcpus),
                Syndrome::Smc(immediate) => {
                    self.advance()?;
                    self.call(immediate, vcpus)
                }
                Syndrome::SystemRegister(access) => self.system_register(access, vcpus),
                Syndrome::DataAbort(abort) => self.data_abort(abort, physical_address, vcpus),
                Syndrome::InstructionAbort => {
                    self.record(vcpus, ExitKind::Other, physical_address);
                    Err(self.fault(&format!(
                        "ran into {physical_address:#x} ({virtual_address:#x}), which is no memory"
                    )))
                }
                Syndrome::Other(class) => {
                    self.record(vcpus, ExitKind::Other, syndrome);
                    Err(self.fault(&format!(
                        "caused an exception of class {class:#x}, syndrome {syndrome:#x}"
                    )))
                }
            },
            HvExit::Unknown(reason) => {
                self.record(vcpus, ExitKind::Other, reason.into());
                Err(self.fault(&format!("exited for the unknown reason {reason}")))
            }
        }
    }

    fn idle(&mut self, wait: Wait, vcpus: &Vcpus) -> Result<(), End> {
        self.record(vcpus, ExitKind::Wait, wait.indicator());
        self.advance()?;
        Ok(self.sleep(wait)?)
    }

    /// HVC, or SMC when the program counter is behind it.
    fn call(&mut self, immediate: u16, vcpus: &Vcpus) -> Result<(), End> {
        let mut registers = [0; 4];
        for (number, register) in (0..).zip(&mut registers) {
            *register = self.vcpu.register(Register::X(number))?;
        }
        self.record(vcpus, ExitKind::Call, registers[0]);
        let bus = &self.shared.bus;
        let is_code =
            |address: u64| address.is_multiple_of(INSTRUCTION) && bus.name(address).is_empty();
        let outcome = match immediate {
            0 => self.shared.power.call(self.index, registers, &is_code),
            _ => Outcome::Return(NOT_SUPPORTED),
        };
        match outcome {
            Outcome::Return(value) => Ok(self.vcpu.set_register(Register::X(0), value)?),
            Outcome::Off => {
                self.is_on = false;
                Ok(())
            }
            Outcome::PowerOff => Err(End::PowerOff),
            Outcome::Reset => Err(End::Reset),
        }
    }

    fn system_register(&mut self, access: SystemAccess, vcpus: &Vcpus) -> Result<(), End> {
        self.record(vcpus, ExitKind::SystemRegister, access.register.bits());
        if Group::of(access.register) == Group::Unknown
            && let Some(count) = vcpus.oddities.note()
        {
            let what = if access.is_read { "read" } else { "write" };
            tracing::debug!(
                count,
                index = self.index,
                "hvf: {what} of the unknown system register {}",
                access.register
            );
        }
        if access.is_read {
            self.set_rt(access.rt, 0)?;
        }
        Ok(self.advance()?)
    }

    fn data_abort(&mut self, abort: DataAbort, address: u64, vcpus: &Vcpus) -> Result<(), End> {
        if abort.is_cache_maintenance {
            self.record(vcpus, ExitKind::Other, address);
            return Ok(self.advance()?);
        }
        let kind = if abort.is_write {
            ExitKind::MmioWrite
        } else {
            ExitKind::MmioRead
        };
        self.record(vcpus, kind, address);
        if abort.is_table_walk {
            return Err(self.fault(&format!(
                "has page tables at {address:#x}, which is no memory"
            )));
        }
        let Some(access) = abort.access else {
            return Err(self.fault(&format!(
                "accessed {address:#x} by an instruction that cannot be emulated"
            )));
        };
        if abort.is_write {
            let bytes = self.rt(access.register)?.to_le_bytes();
            if let Some(bytes) = bytes.get(..access.size) {
                self.shared.bus.write(address, bytes);
            }
        } else {
            let mut bytes = [0; 8];
            if let Some(bytes) = bytes.get_mut(..access.size) {
                self.shared.bus.read(address, bytes);
            }
            self.set_rt(access.register, access.loaded(bytes))?;
        }
        Ok(self.advance()?)
    }

    /// The guest goes on behind the instruction.
    fn advance(&mut self) -> Result<(), HvError> {
        let pc = self.vcpu.register(Register::Pc)?;
        let next = pc.wrapping_add(INSTRUCTION);
        self.vcpu.set_register(Register::Pc, next)
    }

    pub(super) fn rt(&self, rt: Rt) -> Result<u64, HvError> {
        match rt {
            Rt::X(number) => self.vcpu.register(Register::X(number)),
            Rt::Xzr => Ok(0),
        }
    }

    fn set_rt(&mut self, rt: Rt, value: u64) -> Result<(), HvError> {
        match rt {
            Rt::X(number) => self.vcpu.set_register(Register::X(number), value),
            Rt::Xzr => Ok(()),
        }
    }

    /// The timer may cause exits again once the guest has answered the last one. Sooner, it would
    /// exit at once and for ever; a guest that never exits again would keep it masked, but then the
    /// interrupt controller has the timer, as the contract says.
    fn unmask_timer(&mut self) -> Result<(), HvError> {
        if self.is_timer_masked {
            let control = self.vcpu.system_register(SystemRegister::CntvCtlEl0)?;
            let bits = control & (CTL_ENABLE | CTL_IMASK | CTL_ISTATUS);
            if bits != CTL_ENABLE | CTL_ISTATUS {
                self.vcpu.set_vtimer_mask(false)?;
                self.is_timer_masked = false;
            }
        }
        Ok(())
    }

    fn record(&self, vcpus: &Vcpus, kind: ExitKind, detail: u64) {
        let place = match kind {
            ExitKind::MmioRead | ExitKind::MmioWrite => self.shared.bus.name(detail),
            _ => "",
        };
        vcpus.record(
            self.index,
            ExitRecord {
                kind,
                place,
                detail,
            },
        );
    }

    fn fault(&self, what: &str) -> End {
        match self.vcpu.register(Register::Pc) {
            Ok(pc) => End::Fault(format!("the guest {what}, at pc {pc:#x}")),
            Err(error) => End::Fault(format!("the guest {what}, and its pc is unknown: {error}")),
        }
    }
}

impl<V: HvVcpu> Vcpu for HvfVcpu<V> {
    fn step(&mut self, vcpus: &Vcpus) -> Result<(), End> {
        if !self.is_on {
            match self.shared.power.take(self.index) {
                State::OnPending(entry) => self.begin(entry)?,
                State::Off | State::On => {
                    self.shared.doorbells.wait_for_kick(self.index);
                    return Ok(());
                }
            }
        }
        if self.shared.doorbells.take_kick(self.index) {
            self.record(vcpus, ExitKind::Kicked, 0);
            return Ok(());
        }
        self.unmask_timer()?;
        let exit = self.vcpu.run()?;
        self.handle(exit, vcpus)
    }

    fn kick(&self) -> Box<dyn Kick> {
        Box::new(Waker {
            index: self.index,
            doorbells: Arc::clone(&self.shared.doorbells),
            cancel: self.vcpu.canceler(),
        })
    }

    fn describe(&mut self) -> String {
        use std::fmt::Write as _;
        let (vcpu, mut text) = (&self.vcpu, String::new());
        let mut show = |name, value: Result<u64, HvError>| {
            let _ = match value {
                Ok(value) => write!(text, "{name} {value:#x}, "),
                Err(error) => write!(text, "{name} unknown ({error}), "),
            };
        };
        show("pc", vcpu.register(Register::Pc));
        show("cpsr", vcpu.register(Register::Cpsr));
        show("lr", vcpu.register(Register::X(30)));
        for (name, register) in [
            ("esr_el1", SystemRegister::EsrEl1),
            ("elr_el1", SystemRegister::ElrEl1),
            ("far_el1", SystemRegister::FarEl1),
        ] {
            show(name, vcpu.system_register(register));
        }
        text.push_str(match self.shared.power.state(self.index) {
            Some(State::On) => "on",
            Some(State::OnPending(_)) => "about to begin",
            Some(State::Off) | None => "off",
        });
        text
    }
}

/// Ends a step wherever it is: asleep, in the guest, or about to be.
struct Waker {
    index: u8,
    doorbells: Arc<Doorbells>,
    cancel: Box<dyn Cancel>,
}

impl Kick for Waker {
    fn kick(&self) {
        self.doorbells.kick(self.index);
        self.cancel.cancel();
    }
}
