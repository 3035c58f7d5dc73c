//! Waiting guests: what wakes them, and what keeps them from sleeping at all.

use super::*;
use crate::vmm::vcpus::{Vcpu, Vcpus};
use std::time::{Duration, Instant};

/// A test that would sleep for ever fails by its runner's patience; one that sleeps this long has
/// slept.
const SLEPT: Duration = Duration::from_millis(20);
/// Ticks of the counter in [`SLEPT`].
const TICKS: u64 = 480_000;

/// A first processor of `count` with its timer set to `ticks` from now, or off.
fn waiting(count: u8, syndrome: u64, ticks: Option<u64>) -> HvfVcpu<Scripted> {
    let (mut vcpu, _) = first(count, &[exception(syndrome)]);
    let core = &mut vcpu.vcpu.core;
    // The counter before the offset: arithmetic wraps.
    core.counter = 900;
    let now = 900_u64.wrapping_sub(1000);
    if let Some(ticks) = ticks {
        core.system.insert(SystemRegister::CntvCtlEl0, 1);
        let comparand = now.saturating_add(ticks);
        core.system.insert(SystemRegister::CntvCvalEl0, comparand);
    }
    vcpu
}

fn step(vcpu: &mut HvfVcpu<Scripted>) -> Duration {
    let start = Instant::now();
    assert_eq!(vcpu.step(&Vcpus::new(1)), Ok(()));
    start.elapsed()
}

/// As [`waiting`], with a counter that is far from wrapping.
fn waiting_later(syndrome: u64, ticks: u64) -> HvfVcpu<Scripted> {
    let mut vcpu = waiting(1, syndrome, Some(0));
    vcpu.vcpu.core.counter = 1_001_000;
    let system = &mut vcpu.vcpu.core.system;
    system.insert(SystemRegister::CntvCvalEl0, 1_000_000 + ticks);
    vcpu
}

#[test]
fn the_timer_wakes() {
    let mut vcpu = waiting_later(WFI, TICKS);
    assert!(step(&mut vcpu) >= SLEPT);
}

#[test]
fn an_expired_timer_keeps_awake() {
    step(&mut waiting_later(WFI, 0));
    let mut vcpu = waiting_later(WFI, 0);
    vcpu.vcpu
        .core
        .system
        .insert(SystemRegister::CntvCvalEl0, 17);
    step(&mut vcpu);
    step(&mut waiting(1, WFI, Some(0)));
}

#[test]
fn a_wait_with_a_limit_ends() {
    // WFIT x2, whose timer would expire much later.
    let mut vcpu = waiting_later(WFI | 6 | 2 << 5, u64::MAX >> 1);
    vcpu.vcpu.core.x[2] = 1_000_000 + TICKS;
    assert!(step(&mut vcpu) >= SLEPT);
    // And one whose timer is the earlier of the two.
    let mut vcpu = waiting_later(WFI | 6 | 2 << 5, TICKS);
    vcpu.vcpu.core.x[2] = u64::MAX;
    assert!(step(&mut vcpu) >= SLEPT);
    // WFIT xzr: long ago.
    step(&mut waiting_later(WFI | 6 | 31 << 5, u64::MAX >> 1));
}

#[test]
fn events_are_not_waited_for() {
    for instruction in [1, 3, 7] {
        step(&mut waiting(1, WFI | instruction, None));
    }
}

/// Wakes the only processor, whose timer cannot, in each of many rounds.
fn woken(wake: impl Fn(&HvfVcpu<Scripted>) -> Box<dyn FnOnce() + Send>) {
    for control in [0, 2, 3] {
        for _ in 0..70 {
            let mut vcpu = waiting(1, WFI, None);
            let system = &mut vcpu.vcpu.core.system;
            system.insert(SystemRegister::CntvCtlEl0, control);
            system.insert(SystemRegister::CntvCvalEl0, 0);
            let wake = wake(&vcpu);
            std::thread::scope(|scope| {
                scope.spawn(wake);
                step(&mut vcpu);
            });
        }
    }
}

#[test]
fn an_interrupt_wakes() {
    woken(|vcpu| {
        let doorbells = Arc::clone(&vcpu.shared.doorbells);
        Box::new(move || doorbells.interrupt())
    });
}

#[test]
fn a_kick_wakes() {
    woken(|vcpu| {
        let kick = vcpu.kick();
        Box::new(move || kick.kick())
    });
}

#[test]
fn who_is_not_alone_looks_for_itself() {
    let is_code = |_| true;
    let mut vcpu = waiting(2, WFI, None);
    let power = Arc::clone(&vcpu.shared.power);
    power.call(0, [0xc400_0003, 1, 0, 0], &is_code);
    // Nothing wakes it, and it returns all the same.
    step(&mut vcpu);

    // The other one switches itself off while this one is about to sleep: it may have sent an
    // interrupt before, so this one looks once more.
    let mut vcpu = waiting(2, WFI, None);
    let power = Arc::clone(&vcpu.shared.power);
    power.call(0, [0xc400_0003, 1, 0, 0], &is_code);
    power.call(1, [0x8400_0002, 0, 0, 0], &is_code);
    assert!(power.is_alone());
    step(&mut vcpu);
}

#[test]
fn a_kick_before_a_run_ends_the_step() {
    let (mut vcpu, device) = first(1, &[exception(DATA_ABORT | ISV | WNR)]);
    let kick = vcpu.kick();
    kick.kick();
    step(&mut vcpu);
    assert!(device.0.lock().unwrap().is_empty());
    // Its other half cancels the next run, and nothing else is left of it.
    step(&mut vcpu);
    assert!(device.0.lock().unwrap().is_empty());
    step(&mut vcpu);
    assert_eq!(device.0.lock().unwrap().len(), 1);
}
