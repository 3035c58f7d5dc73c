//! Exits one by one: what each does to the registers, and which end the machine.

use super::*;
use crate::vmm::vcpus::{End, Vcpu, Vcpus};
use proptest::prelude::*;

/// One step over an exit, and the registers before and after it.
fn step(exit: HvExit, prepare: impl FnOnce(&mut Core)) -> (Result<(), End>, Core, Core) {
    let (mut vcpu, _) = first(1, &[exit]);
    prepare(&mut vcpu.vcpu.core);
    let before = vcpu.vcpu.core.clone();
    let result = vcpu.step(&Vcpus::new(1));
    (result, before, vcpu.vcpu.core)
}

fn abort(size_log2: u64, signed: bool, wide: bool, register: u64, write: bool) -> HvExit {
    let flags = u64::from(signed) << 21 | u64::from(wide) << 15 | u64::from(write) << 6;
    exception(DATA_ABORT | ISV | size_log2 << 22 | register << 16 | flags)
}

/// What a load of `size` bytes from [`Device`] puts into a register, by arithmetic.
fn oracle(size: u32, signed: bool, wide: bool) -> u64 {
    let mut value = (0..size).rfold(0_i128, |value, byte| value * 256 + i128::from(0xfe - byte));
    if signed && value >= 1 << (8 * size - 1) {
        value -= 1 << (8 * size);
    }
    let bits = if wide { 64 } else { 32 };
    u64::try_from(value.rem_euclid(1 << bits)).unwrap()
}

#[test]
fn loads_of_every_kind() {
    for (size_log2, register) in (0..4).flat_map(|size| (0..32).map(move |x| (size, x))) {
        for (signed, wide) in [(false, false), (false, true), (true, false), (true, true)] {
            let exit = abort(size_log2, signed, wide, register, false);
            let (result, before, after) = step(exit, |_| ());
            assert_eq!(result, Ok(()));
            let mut expected = before.x;
            if let Some(x) = expected.get_mut(usize::try_from(register).unwrap()) {
                *x = oracle(1 << size_log2, signed, wide);
            }
            assert_eq!(after.x, expected, "{size_log2} {signed} {wide} {register}");
            assert_eq!(after.pc, before.pc + 4);
        }
    }
    assert_eq!(oracle(1, true, false), 0xffff_fffe);
    assert_eq!(oracle(2, false, true), 0xfdfe);
    assert_eq!(oracle(8, false, true), 0xf7f8_f9fa_fbfc_fdfe);
}

#[test]
fn stores_of_every_kind() {
    for (size_log2, register) in (0..4).flat_map(|size| (0..32).map(move |x| (size, x))) {
        let (mut vcpu, device) = first(1, &[abort(size_log2, false, true, register, true)]);
        let before = vcpu.vcpu.core.clone();
        assert_eq!(vcpu.step(&Vcpus::new(1)), Ok(()));
        let value = before.x.get(usize::try_from(register).unwrap());
        let bytes = value.copied().unwrap_or(0).to_le_bytes();
        let expected = (0x10, bytes[..1 << size_log2].to_vec());
        assert_eq!(*device.0.lock().unwrap(), [expected]);
        assert_eq!(vcpu.vcpu.core.x, before.x);
        assert_eq!(vcpu.vcpu.core.pc, before.pc + 4);
    }
}

#[test]
fn where_the_guest_goes_on() {
    for (name, syndrome, advance) in [
        ("hvc", HVC, 0),
        ("smc", SMC, 4),
        ("mrs", MRS, 4),
        ("msr", MSR, 4),
        ("wfe", WFI | 1, 4),
        ("wfit of an unknown register", WFI | 2, 4),
        ("wfet", WFI | 3, 4),
        ("str", DATA_ABORT | ISV | WNR, 4),
        ("cache maintenance", DATA_ABORT | WNR | 1 << 8, 4),
    ] {
        let (result, before, after) = step(exception(syndrome), |_| ());
        assert_eq!(result, Ok(()), "{name}");
        assert_eq!(after.pc, before.pc + advance, "{name}");
        let (_, _, after) = step(exception(syndrome), |core| core.pc = u64::MAX);
        assert_eq!(after.pc, u64::MAX.wrapping_add(advance), "{name}");
    }
}

#[test]
fn calls_by_either_conduit() {
    for (function, immediate, expected) in [
        (0x8400_0000, 0, 0x1_0001),
        (0x8400_0000, 1, u64::MAX),
        (0xdead_beef, 0, u64::MAX),
    ] {
        for class in [HVC, SMC] {
            let exit = exception(class | immediate);
            let (result, before, after) = step(exit, |core| core.x[0] = function);
            assert_eq!((result, after.x[0]), (Ok(()), expected));
            assert_eq!(after.x[1..], before.x[1..]);
        }
    }
    let (off, ..) = step(exception(HVC), |core| core.x[0] = 0x8400_0008);
    let (reset, ..) = step(exception(SMC), |core| core.x[0] = 0x8400_0009);
    assert_eq!((off, reset), (Err(End::PowerOff), Err(End::Reset)));
}

#[test]
fn a_processor_cannot_begin_in_a_device() {
    for (address, expected) in [(DEVICE, -9), (0x8000_0002, -9), (0x8000_0000, 0)] {
        let (mut vcpu, _) = first(2, &[exception(HVC)]);
        vcpu.vcpu.core.x[..4].copy_from_slice(&[0xc400_0003, 1, address, 0]);
        assert_eq!(vcpu.step(&Vcpus::new(2)), Ok(()));
        assert_eq!(vcpu.vcpu.core.x[0].cast_signed(), expected);
    }
}

#[test]
fn system_registers_are_zero() {
    // Known and unknown ones: MDCCINT_EL1, PMCR_EL0, S3_7_C15_C15_7.
    for register in [0x20_0004, 0x30_e418, 0x3f_fc1e] {
        let syndrome = 0x6200_0000 | register | 5 << 5;
        let (result, before, after) = step(exception(syndrome | 1), |_| ());
        let mut expected = before.x;
        expected[5] = 0;
        assert_eq!((result, after.x), (Ok(()), expected));
        for written in [syndrome, syndrome | 31 << 5, syndrome | 31 << 5 | 1] {
            let (result, before, after) = step(exception(written), |_| ());
            assert_eq!((result, after.x), (Ok(()), before.x));
        }
    }
}

#[test]
fn faults_say_what_and_where() {
    for (exit, words) in [
        (exception(DATA_ABORT), "0x9000010 by an instruction"),
        (
            exception(DATA_ABORT | ISV | 1 << 7),
            "page tables at 0x9000010",
        ),
        (exception(0x8200_0006), "ran into 0x9000010"),
        (exception(0xf200_0000), "class 0x3c"),
        (exception(0), "class 0x0"),
        (HvExit::Unknown(77), "unknown reason 77"),
    ] {
        let (result, ..) = step(exit, |core| core.pc = 0xabc0);
        let Err(End::Fault(text)) = result else {
            panic!("{exit:?}: {result:?}");
        };
        assert!(text.contains(words), "{text}");
        assert!(text.contains("pc 0xabc0"), "{text}");
    }
}

#[test]
fn processors_begin_as_specified() {
    let (shared, _) = shared(18);
    for index in [0, 1, 17] {
        let vcpu = Scripted::new(|_| None);
        let vcpu = HvfVcpu::new(index, vcpu, shared.clone(), ENTRY).unwrap();
        let core = &vcpu.vcpu.core;
        let system = |register| core.system[&register];
        let mpidr = [0x8000_0000, 0x8000_0001, 0x8000_0101][usize::from(index.min(2))];
        assert_eq!(system(SystemRegister::MpidrEl1), mpidr);
        assert_eq!(system(SystemRegister::IdAa64pfr1El1), 0x21);
        let state = (core.pc, core.x[0], core.cpsr);
        if index == 0 {
            assert_eq!(state, (ENTRY.address, ENTRY.context, 0x3c5));
        } else {
            assert_eq!(core.pc, 0);
        }
    }
}

#[test]
fn a_description_has_everything() {
    let (mut vcpu, _) = first(2, &[]);
    vcpu.vcpu.core.system.insert(SystemRegister::FarEl1, 0xf00);
    let text = vcpu.describe();
    for words in ["pc 0x80000000, cpsr 0x3c5, lr 0x9e9e", "far_el1 0xf00, on"] {
        assert!(text.contains(words), "{text}");
    }
    vcpu.vcpu.failure.set(0);
    assert!(vcpu.describe().contains("pc unknown (hv_vcpu_get_reg"));
}

#[test]
fn exits_are_remembered() {
    let vcpus = Vcpus::new(1);
    let exits = [
        abort(0, false, false, 0, false),
        abort(0, false, false, 0, true),
        exception(MRS),
        exception(HVC),
        exception(WFI | 1),
        HvExit::VtimerActivated,
    ];
    let (mut vcpu, _) = first(1, &exits);
    for _ in exits {
        assert_eq!(vcpu.step(&vcpus), Ok(()));
    }
    vcpu.kick().kick();
    assert_eq!(vcpu.step(&vcpus), Ok(()));
    let words = vcpus.last_words();
    let last = "MmioRead@device(0x9000010) MmioWrite@device(0x9000010) SystemRegister(0x200000) \
                Call(0x0) Wait(0x1) Timer(0x0) Kicked(0x0)";
    assert!(words.contains(last), "{words}");
}

#[test]
fn every_call_may_fail() {
    let exits = [
        abort(2, true, true, 3, false),
        abort(2, true, true, 3, true),
        exception(HVC),
        exception(SMC),
        exception(MRS),
        exception(WFI),
        exception(WFI | 6),
        HvExit::VtimerActivated,
        HvExit::Canceled,
    ];
    for exit in exits {
        let mut count = 0;
        loop {
            let (mut vcpu, _) = first(1, &[exit]);
            vcpu.vcpu.core.system.insert(SystemRegister::CntvCtlEl0, 1);
            vcpu.vcpu.core.system.insert(SystemRegister::CntvCvalEl0, 0);
            vcpu.shared.doorbells.interrupt();
            vcpu.vcpu.failure.set(count);
            match vcpu.step(&Vcpus::new(1)) {
                Ok(()) => break,
                Err(End::Fault(text)) => assert!(text.contains("0xfae94001"), "{text}"),
                Err(end) => panic!("{end:?}"),
            }
            count += 1;
        }
        assert!((1..10).contains(&count), "{exit:?} {count}");
    }
    // So may those before the first step.
    for count in 0.. {
        let (shared, _) = shared(1);
        let vcpu = Scripted::new(|_| None);
        vcpu.failure.set(count);
        if HvfVcpu::new(0, vcpu, shared, ENTRY).is_ok() {
            assert!(count > 5);
            break;
        }
    }
}

#[test]
fn the_timer_is_masked_until_it_is_answered() {
    let answered = [0, 1, 2, 3, 7];
    for control in answered {
        let (mut vcpu, _) = first(
            1,
            &[HvExit::VtimerActivated, exception(HVC), exception(HVC)],
        );
        let vcpus = Vcpus::new(1);
        vcpu.vcpu.core.timer_masked = true;
        let set = |vcpu: &mut HvfVcpu<Scripted>, control| {
            let system = &mut vcpu.vcpu.core.system;
            system.insert(SystemRegister::CntvCtlEl0, control);
        };
        set(&mut vcpu, 5);
        assert_eq!((vcpu.step(&vcpus), vcpu.step(&vcpus)), (Ok(()), Ok(())));
        assert!(vcpu.vcpu.core.timer_masked);
        assert_eq!(vcpu.vcpu.core.pending, [27]);
        set(&mut vcpu, control);
        assert_eq!(vcpu.step(&vcpus), Ok(()));
        assert!(!vcpu.vcpu.core.timer_masked);
    }
}

proptest! {
    #[test]
    fn nothing_panics(data in prop::collection::vec(any::<u8>(), 0..1000)) {
        super::super::misbehave::exits(&data);
    }
}
