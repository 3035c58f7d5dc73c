//! A guest whose exits, registers and timers are what bytes say, for property tests and for
//! fuzzing.
//!
//! Whatever the bytes say, a step over an exit changes the registers that the instruction names and
//! no other, leaves the program counter where the guest goes on, never sleeps when something waits,
//! and ends the machine only with a reason.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests may fail"
)]

use super::contract::{HvExit, SystemRegister};
use super::doorbell::Doorbells;
use super::psci::{Power, State};
use super::run::{HvfVcpu, Shared};
use super::testing::{Core, DEVICE, Device, ENTRY, Scripted};
use crate::vmm::console::Tail;
use crate::vmm::devices::bus::Bus;
use crate::vmm::devices::misbehave::Decisions;
use crate::vmm::devices::pl011::{self, Pl011};
use crate::vmm::devices::testing::{Driver, Line};
use crate::vmm::devices::virtio::mmio::WINDOW;
use crate::vmm::devices::virtio::rng::Rng;
use crate::vmm::vcpus::{End, Vcpu, Vcpus};
use std::sync::{Arc, Mutex};

/// Where the console and the random numbers are.
const CONSOLE: u64 = DEVICE + 0x1000;
const RANDOM: u64 = DEVICE + 0x2000;

/// As many as make two clusters.
const PROCESSORS: u8 = 18;
/// Those that the bytes choose from.
const CHOSEN: u64 = 3;

/// Exception classes that are handled.
const CLASSES: [u64; 6] = [0x01, 0x16, 0x17, 0x18, 0x20, 0x24];

/// The next exit of the processor that steps next.
type Next = Arc<Mutex<Option<HvExit>>>;

struct Machine {
    vcpus: Vec<HvfVcpu<Scripted>>,
    shared: Shared,
    next: Next,
    history: Arc<Vcpus>,
}

impl Machine {
    fn new() -> Self {
        let mut bus = Bus::new();
        let console = Pl011::new(Arc::new(Tail::new(0x1000, None)), Arc::<Line>::default());
        let random = Driver::untouched(Rng::default()).transport;
        let windows = [
            bus.insert("device", DEVICE, 0x100, Arc::<Device>::default()),
            bus.insert("console", CONSOLE, pl011::WINDOW, Arc::new(console)),
            bus.insert("random", RANDOM, WINDOW, Arc::new(random)),
        ];
        assert_eq!(windows, [Ok(()); 3]);
        let doorbells = Doorbells::new(PROCESSORS);
        let shared = Shared {
            bus: Arc::new(bus),
            power: Power::new(&doorbells),
            doorbells,
        };
        let next = Next::default();
        let vcpu = |index| {
            let next = Arc::clone(&next);
            let vcpu = Scripted::new(move |_| Some(next.lock().unwrap().take().unwrap()));
            HvfVcpu::new(index, vcpu, shared.clone(), ENTRY).unwrap()
        };
        Self {
            vcpus: (0..CHOSEN as u8).map(vcpu).collect(),
            shared: shared.clone(),
            next,
            history: Vcpus::new(PROCESSORS),
        }
    }
}

/// Does what `data` says.
pub(crate) fn exits(data: &[u8]) {
    let mut machine = Machine::new();
    let mut decisions = Decisions(data);
    while !decisions.0.is_empty() {
        step(&mut machine, &mut decisions);
    }
    let words = machine.history.last_words();
    assert!(words.len() < 0x1_0000);
}

fn step(machine: &mut Machine, decisions: &mut Decisions<'_>) {
    let index = decisions.below(CHOSEN) as u8;
    let exit = exit(decisions);
    let vcpu = &mut machine.vcpus[usize::from(index)];
    prepare(&mut vcpu.vcpu.core, decisions);
    let state = machine.shared.power.state(index).unwrap();
    // Whatever waits would be woken.
    machine.shared.doorbells.interrupt();
    if state == State::Off {
        vcpu.kick().kick();
    }
    *machine.next.lock().unwrap() = Some(exit);
    let before = vcpu.vcpu.core.clone();
    let result = vcpu.step(&machine.history);
    if let State::OnPending(entry) = state {
        assert!(entry.address.is_multiple_of(4), "{entry:?}");
        assert_eq!(machine.shared.bus.name(entry.address), "", "{entry:?}");
    }
    let has_run = machine.next.lock().unwrap().take().is_none();
    let after = &vcpu.vcpu.core;
    match state {
        State::Off => {
            assert!(!has_run && result == Ok(()));
            assert_eq!((after.x, after.pc), (before.x, before.pc));
        }
        // It was kicked when it was switched on.
        State::OnPending(entry) if !has_run => {
            assert_eq!((after.pc, after.x[0]), (entry.address, entry.context));
        }
        State::OnPending(_) => {}
        State::On if !has_run => assert_eq!((after.x, after.pc), (before.x, before.pc)),
        State::On => check(exit, &result, &before, after),
    }
    let _ = vcpu.describe();
}

/// Registers that decide what an exit does.
fn prepare(core: &mut Core, decisions: &mut Decisions<'_>) {
    if decisions.below(2) == 0 {
        // A function of PSCI or of its calling convention, with arguments that mean something.
        let kind = [0x8400_0000, 0xc400_0000, 0x8000_0000][decisions.below(3) as usize];
        core.x[0] = kind | decisions.below(0x20);
        for x in &mut core.x[1..4] {
            *x = match decisions.below(4) {
                0 => decisions.value(),
                1 => kind | decisions.below(0x20),
                2 => decisions.below(CHOSEN),
                _ => u64::from(u16::from_be_bytes(decisions.bytes())),
            };
        }
    }
    match decisions.below(8) {
        0 => core.x[decisions.below(31) as usize] = decisions.value(),
        1 => core.pc = u64::from_le_bytes(decisions.bytes()),
        2 => {
            let control = decisions.below(8);
            let comparand = decisions.value();
            core.system.insert(SystemRegister::CntvCtlEl0, control);
            core.system.insert(SystemRegister::CntvCvalEl0, comparand);
        }
        3 => core.counter = decisions.value(),
        _ => {}
    }
}

fn exit(decisions: &mut Decisions<'_>) -> HvExit {
    match decisions.below(16) {
        0 => HvExit::Canceled,
        1 => HvExit::VtimerActivated,
        2 => HvExit::Unknown(u32::from_le_bytes(decisions.bytes())),
        3 => HvExit::Exception {
            syndrome: u64::from_le_bytes(decisions.bytes()),
            virtual_address: decisions.value(),
            physical_address: decisions.value(),
        },
        _ => {
            let class = CLASSES[decisions.below(CLASSES.len() as u64) as usize];
            // What most calls have is no immediate.
            let is_plain = matches!(class, 0x16 | 0x17) && decisions.below(8) > 0;
            let rest = match is_plain {
                true => 0,
                false => u64::from(u32::from_le_bytes(decisions.bytes())) & 0x1ff_ffff,
            };
            let window = [DEVICE, CONSOLE, RANDOM, 0][decisions.below(4) as usize];
            HvExit::Exception {
                syndrome: class << 26 | 1 << 25 | rest,
                virtual_address: 0,
                physical_address: window + decisions.below(0x1008),
            }
        }
    }
}

/// What the architecture says of the registers behind an exit, bit by bit.
fn check(exit: HvExit, result: &Result<(), End>, before: &Core, after: &Core) {
    let mut pc = before.pc;
    // The register that may have changed.
    let mut target = 31;
    match exit {
        HvExit::Exception { syndrome, .. } => {
            let read = |bit: u64| syndrome >> bit & 1 == 1;
            let (mut is_fatal, mut ends) = (false, false);
            match syndrome >> 26 & 0x3f {
                0x01 => pc = pc.wrapping_add(4),
                class @ (0x16 | 0x17) => {
                    pc = pc.wrapping_add(if class == 0x17 { 4 } else { 0 });
                    ends = matches!(before.x[0] as u32, 0x8400_0008 | 0x8400_0009);
                    ends &= syndrome & 0xffff == 0;
                    target = 0;
                }
                0x18 => {
                    pc = pc.wrapping_add(4);
                    if read(0) {
                        target = (syndrome >> 5 & 31) as usize;
                    }
                }
                0x24 if read(8) => pc = pc.wrapping_add(4),
                0x24 if read(24) && !read(7) => {
                    pc = pc.wrapping_add(4);
                    if !read(6) {
                        target = (syndrome >> 16 & 31) as usize;
                    }
                }
                _ => is_fatal = true,
            }
            match result {
                Ok(()) => assert!(!is_fatal && !ends, "{exit:?}"),
                Err(End::PowerOff | End::Reset) => assert!(ends, "{exit:?}"),
                Err(End::Fault(why)) => assert!(is_fatal && why.contains("pc 0x"), "{why}"),
                Err(End::Stopped) => panic!("{exit:?}"),
            }
        }
        HvExit::Unknown(_) => assert!(matches!(result, Err(End::Fault(_)))),
        HvExit::Canceled | HvExit::VtimerActivated => assert_eq!(result, &Ok(())),
    }
    assert_eq!(after.pc, pc, "{exit:?}");
    for (number, (was, is)) in before.x.iter().zip(&after.x).enumerate() {
        assert!(number == target || was == is, "{exit:?}: x{number}");
    }
}
