//! A processor that plays a script: no hypervisor, any host.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests may fail"
)]

use super::contract::{Cancel, HvError, HvExit, HvVcpu, Register, SystemRegister};
use super::doorbell::Doorbells;
use super::psci::{Entry, Power};
use super::run::{HvfVcpu, Shared};
use crate::vmm::devices::MmioDevice;
use crate::vmm::devices::bus::Bus;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::ThreadId;

/// Where the device is.
pub(super) const DEVICE: u64 = 0x0900_0000;
/// Where the kernel is.
pub(super) const ENTRY: Entry = Entry {
    address: 0x8000_0000,
    context: 0x8400_0000,
};

/// What a [`Scripted`] processor has besides its script.
#[derive(Debug, Clone)]
pub(super) struct Core {
    pub(super) x: [u64; 31],
    pub(super) pc: u64,
    pub(super) cpsr: u64,
    pub(super) system: BTreeMap<SystemRegister, u64>,
    pub(super) timer_masked: bool,
    pub(super) pending: Vec<u32>,
    pub(super) counter: u64,
}

/// A guest: what it does next, seen as an exit; `None` when it computes until somebody cancels.
pub(super) type Script = Box<dyn FnMut(&mut Core) -> Option<HvExit>>;

/// A processor that plays a script and insists on the contract.
pub(super) struct Scripted {
    pub(super) core: Core,
    pub(super) script: Script,
    pub(super) canceled: Arc<Canceled>,
    pub(super) owner: ThreadId,
    /// Calls until one fails.
    pub(super) failure: Cell<u32>,
}

#[derive(Debug, Default)]
pub(super) struct Canceled {
    canceled: Mutex<bool>,
    changed: Condvar,
}

impl Cancel for Arc<Canceled> {
    fn cancel(&self) {
        *self.canceled.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

impl Canceled {
    fn take(&self) -> bool {
        std::mem::take(&mut self.canceled.lock().unwrap())
    }

    fn wait(&self) {
        let mut canceled = self.canceled.lock().unwrap();
        while !std::mem::take(&mut *canceled) {
            canceled = self.changed.wait(canceled).unwrap();
        }
    }
}

impl Scripted {
    pub(super) fn new(script: impl FnMut(&mut Core) -> Option<HvExit> + 'static) -> Self {
        // Not what begins as zero on hardware either.
        let system = [
            (SystemRegister::SctlrEl1, 0x30d0_0800),
            (SystemRegister::IdAa64pfr1El1, 0x0200_0021),
            (SystemRegister::CntvCtlEl0, 0),
        ];
        Self {
            core: Core {
                x: std::array::from_fn(|number| 0x0101_0101_0101_0101 * (number as u64 + 0x80)),
                pc: 0,
                cpsr: 0,
                system: system.into(),
                timer_masked: false,
                pending: Vec::new(),
                counter: 0,
            },
            script: Box::new(script),
            canceled: Arc::default(),
            owner: std::thread::current().id(),
            failure: Cell::new(u32::MAX),
        }
    }

    fn call(&self, call: &'static str) -> Result<(), HvError> {
        assert_eq!(std::thread::current().id(), self.owner, "{call}");
        let left = self.failure.get();
        self.failure.set(left.wrapping_sub(1));
        match left {
            0 => Err(HvError {
                call,
                code: 0xfae9_4001,
            }),
            _ => Ok(()),
        }
    }
}

impl HvVcpu for Scripted {
    fn run(&mut self) -> Result<HvExit, HvError> {
        self.call("hv_vcpu_run")?;
        if self.canceled.take() {
            return Ok(HvExit::Canceled);
        }
        match (self.script)(&mut self.core) {
            // Swallows what was cancelled meanwhile.
            Some(exit) => {
                self.canceled.take();
                Ok(exit)
            }
            None => {
                self.canceled.wait();
                Ok(HvExit::Canceled)
            }
        }
    }

    fn register(&self, register: Register) -> Result<u64, HvError> {
        self.call("hv_vcpu_get_reg")?;
        Ok(match register {
            Register::X(number) => self.core.x[usize::from(number)],
            Register::Pc => self.core.pc,
            Register::Cpsr => self.core.cpsr,
        })
    }

    fn set_register(&mut self, register: Register, value: u64) -> Result<(), HvError> {
        self.call("hv_vcpu_set_reg")?;
        match register {
            Register::X(number) => self.core.x[usize::from(number)] = value,
            Register::Pc => self.core.pc = value,
            Register::Cpsr => self.core.cpsr = value,
        }
        Ok(())
    }

    fn system_register(&self, register: SystemRegister) -> Result<u64, HvError> {
        self.call("hv_vcpu_get_sys_reg")?;
        Ok(self
            .core
            .system
            .get(&register)
            .copied()
            .unwrap_or(0xdead_0000))
    }

    fn set_system_register(&mut self, register: SystemRegister, value: u64) -> Result<(), HvError> {
        self.call("hv_vcpu_set_sys_reg")?;
        self.core.system.insert(register, value);
        Ok(())
    }

    fn set_vtimer_mask(&mut self, masked: bool) -> Result<(), HvError> {
        self.call("hv_vcpu_set_vtimer_mask")?;
        self.core.timer_masked = masked;
        Ok(())
    }

    fn vtimer_offset(&self) -> Result<u64, HvError> {
        self.call("hv_vcpu_get_vtimer_offset")?;
        Ok(1000)
    }

    fn set_private_interrupt_pending(&mut self, intid: u32) -> Result<(), HvError> {
        self.call("hv_gic_set_redistributor_reg")?;
        self.core.pending.push(intid);
        Ok(())
    }

    fn counter(&self) -> u64 {
        self.core.counter
    }

    fn counter_frequency(&self) -> u64 {
        24_000_000
    }

    fn canceler(&self) -> Box<dyn Cancel> {
        Box::new(Arc::clone(&self.canceled))
    }
}

/// Remembers writes; reads are bytes that count down from 0xfe.
#[derive(Debug, Default)]
pub(super) struct Device(pub(super) Mutex<Vec<(u64, Vec<u8>)>>);

impl MmioDevice for Device {
    fn read(&self, _: u64, data: &mut [u8]) {
        for (byte, value) in data.iter_mut().zip((0..=0xfe).rev()) {
            *byte = value;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.lock().unwrap().push((offset, data.to_vec()));
    }
}

/// What processors share, with a device of 256 bytes on the bus.
pub(super) fn shared(count: u8) -> (Shared, Arc<Device>) {
    let device = Arc::<Device>::default();
    let mut bus = Bus::new();
    bus.insert("device", DEVICE, 0x100, device.clone()).unwrap();
    let doorbells = Doorbells::new(count);
    let shared = Shared {
        bus: Arc::new(bus),
        power: Power::new(&doorbells),
        doorbells,
    };
    (shared, device)
}

/// The first processor of `count`, which exits as told, then computes.
pub(super) fn first(count: u8, exits: &[HvExit]) -> (HvfVcpu<Scripted>, Arc<Device>) {
    let (shared, device) = shared(count);
    let mut exits = Vec::from(exits).into_iter();
    let vcpu = Scripted::new(move |_| exits.next());
    (HvfVcpu::new(0, vcpu, shared, ENTRY).unwrap(), device)
}

pub(super) fn exception(syndrome: u64) -> HvExit {
    HvExit::Exception {
        syndrome,
        virtual_address: 0xffff_8000_0900_0010,
        physical_address: DEVICE + 0x10,
    }
}

pub(super) const WFI: u64 = 0x0600_0000;
pub(super) const HVC: u64 = 0x5a00_0000;
pub(super) const SMC: u64 = 0x5e00_0000;
pub(super) const MRS: u64 = 0x6220_0001;
pub(super) const MSR: u64 = 0x6220_0000;
pub(super) const DATA_ABORT: u64 = 0x9200_0006;
pub(super) const ISV: u64 = 1 << 24;
pub(super) const WNR: u64 = 1 << 6;
