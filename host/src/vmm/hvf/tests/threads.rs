//! Machines of several processors, on threads as in earnest.

use super::*;
use crate::vmm::hvf::start_vcpus;
use crate::vmm::machine::Start;
use crate::vmm::vcpus::{End, VcpuThreads, Vcpus};
use std::sync::atomic::{AtomicU32, Ordering};

const START: Start = Start {
    entry: ENTRY.address,
    fdt: ENTRY.context,
};
const OFF: u64 = 0x8400_0002;
const ON: u64 = 0xc400_0003;
const INFO: u64 = 0xc400_0004;
const SYSTEM_OFF: u64 = 0x8400_0008;

struct Machine {
    vcpus: Arc<Vcpus>,
    doorbells: Arc<Doorbells>,
    threads: VcpuThreads,
}

fn start<S>(count: u8, script: impl Fn(u8) -> S + Send + Sync + 'static) -> Machine
where
    S: FnMut(&mut Core) -> Option<HvExit> + 'static,
{
    let vcpus = Vcpus::new(count);
    let doorbells = Doorbells::new(count);
    let (shared, _) = shared(count);
    let create = move |index| Ok(Scripted::new(script(index)));
    let threads = start_vcpus(&vcpus, &shared.bus, START, &doorbells, create, || Ok(())).unwrap();
    Machine {
        vcpus,
        doorbells,
        threads,
    }
}

impl Machine {
    fn end(mut self) -> Option<End> {
        self.threads.join();
        self.vcpus.end()
    }
}

/// HVC with these arguments.
fn call(core: &mut Core, arguments: [u64; 4]) -> Option<HvExit> {
    core.x[..4].copy_from_slice(&arguments);
    Some(exception(HVC))
}

/// The boot processor's script: switches each other one on, waits until it is off again, and does
/// so three times; then the machine goes off.
fn conductor(count: u64) -> impl FnMut(&mut Core) -> Option<HvExit> {
    let (mut target, mut rounds, mut is_waiting) = (1, 0, false);
    move |core| {
        if is_waiting {
            // The answer to AFFINITY_INFO, or to CPU_ON at first: 0 for both is "on" and "done".
            assert!(core.x[0] <= 2, "{:#x}", core.x[0]);
            if core.x[0] != 1 {
                return call(core, [INFO, target, 0, 0]);
            }
            is_waiting = false;
            target += 1;
        }
        if target == count {
            (target, rounds) = (1, rounds + 1);
        }
        if rounds == 3 {
            return call(core, [SYSTEM_OFF, 0, 0, 0]);
        }
        is_waiting = true;
        call(core, [ON, target, 0x8000_1000 + target * 8, target])
    }
}

#[test]
fn processors_go_on_and_off_and_on() {
    for count in [2, 4, 18] {
        let begun = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&begun);
        let targets = if count == 18 { 16 } else { count };
        let machine = start(count, move |index| {
            let begun = Arc::clone(&counter);
            let mut boot = conductor(targets.into());
            move |core: &mut Core| {
                if index == 0 {
                    return boot(core);
                }
                // As after a reset, each time.
                let index = u64::from(index);
                assert_eq!((core.pc, core.x[0]), (0x8000_1000 + index * 8, index));
                assert_eq!(core.cpsr, 0x3c5);
                assert_eq!(core.system[&SystemRegister::SctlrEl1], 0x30d0_0800);
                assert_eq!(core.system[&SystemRegister::CntvCtlEl0], 0);
                core.cpsr = 0;
                core.pc = 0;
                core.system.insert(SystemRegister::SctlrEl1, u64::MAX);
                core.system.insert(SystemRegister::CntvCtlEl0, 1);
                begun.fetch_add(1, Ordering::SeqCst);
                call(core, [OFF, 0, 0, 0])
            }
        });
        assert_eq!(machine.end(), Some(End::PowerOff));
        let expected = (u32::from(targets) - 1) * 3;
        assert_eq!(begun.load(Ordering::SeqCst), expected);
    }
}

#[test]
fn a_stop_reaches_everybody_wherever_they_are() {
    // Alone: computing, waiting, and off for ever.
    for what in 0..3 {
        for _ in 0..70 {
            let machine = start(1, move |_| {
                move |core: &mut Core| match what {
                    0 => None,
                    1 => Some(exception(WFI)),
                    _ => call(core, [OFF, 0, 0, 0]),
                }
            });
            drop(machine.threads);
            assert_eq!(machine.vcpus.end(), Some(End::Stopped));
        }
    }
    // Together: computing, waiting, accessing a device, off.
    for _ in 0..70 {
        let machine = start(4, |index| {
            let mut steps = 0;
            move |core: &mut Core| {
                steps += 1;
                match (index, steps) {
                    (0, 1..=3) => call(core, [ON, steps, 0x8000_0000, 0]),
                    (0, _) => None,
                    (1, _) => Some(exception(WFI)),
                    (2, _) => Some(exception(DATA_ABORT | ISV)),
                    _ => call(core, [OFF, 0, 0, 0]),
                }
            }
        });
        let doorbells = Arc::clone(&machine.doorbells);
        std::thread::scope(|scope| {
            scope.spawn(move || doorbells.interrupt());
            drop(machine.threads);
        });
        assert_eq!(machine.vcpus.end(), Some(End::Stopped));
    }
}

#[test]
fn a_fault_ends_everybody() {
    let machine = start(3, |index| {
        let mut steps = 0;
        move |core: &mut Core| {
            steps += 1;
            match (index, steps) {
                (0, 1) => call(core, [ON, 2, 0x8000_0000, 0]),
                (0, _) => None,
                _ => Some(exception(0x8200_0006)),
            }
        }
    });
    let vcpus = Arc::clone(&machine.vcpus);
    let Some(End::Fault(text)) = machine.end() else {
        panic!("no fault");
    };
    assert!(text.contains("ran into 0x9000010"), "{text}");
    let words = vcpus.last_words();
    assert!(words.lines().nth(1).unwrap().contains("off; last exits:"));
    assert!(words.lines().nth(2).unwrap().contains("on; last exits:"));
}

#[test]
fn a_processor_that_cannot_be_had() {
    let vcpus = Vcpus::new(3);
    let (shared, _) = shared(3);
    for (code, is_denied) in [(0xfae9_4007, true), (0xfae9_4005, false)] {
        let call = "hv_vm_create";
        let create = move |index| match index {
            2 => Err(HvError { call, code }),
            _ => Ok(Scripted::new(|_| None)),
        };
        let error = start_vcpus(
            &vcpus,
            &shared.bus,
            START,
            &shared.doorbells,
            create,
            || Ok(()),
        )
        .unwrap_err();
        let error = crate::vmm::machine::StartError::from(error);
        assert_eq!(error.is_denied(), is_denied);
        let text = crate::error::chain(&error);
        assert!(text.contains("hv_vm_create failed"), "{text}");
    }
}
