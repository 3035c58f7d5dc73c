//! Programs that make any system call, and any tables, for property tests and for fuzzing.
//!
//! Whatever the call, the kernel takes the filter of every variant and it answers what the lists
//! say; and so it is with the filter of any other table.

#![expect(clippy::unwrap_used, reason = "tests may fail")]

use super::bpf::{Answer, Instruction, Table, Verdict, assemble};
use super::kernel::{self, Call};
use super::reference::{self, ARCH, held_rules, rules};
use super::{Condition, MOST_DENIALS, Rule, Separated, denial, filter, refusing};
use crate::decisions::Decisions;
use std::sync::OnceLock;

/// How the kernel tells 32-bit code of both architectures, and some others.
const FOREIGN: [u32; 6] = [
    0x4000_0003,
    0x4000_0028,
    0xc000_003e,
    0xc000_00b7,
    0xc000_00f3,
    0x3e,
];
/// `__X32_SYSCALL_BIT`.
const X32: u32 = 0x4000_0000;

const ARGUMENTS: [usize; 6] = [0, 1, 2, 3, 4, 5];

/// One of the variants.
fn variant(bits: usize) -> Separated {
    let set = |bit: usize| bits >> bit & 1 != 0;
    Separated {
        sockets: set(0),
        ipc: set(1),
        pids: set(2),
        signals: set(3),
        root: set(4),
        lasting_files: set(5),
        names: set(6),
        truncation: set(7),
    }
}

/// The program of a variant, which the kernel would take.
fn program(separated: Separated) -> &'static [Instruction] {
    static CHECKED: [OnceLock<()>; Separated::VARIANTS] =
        [const { OnceLock::new() }; Separated::VARIANTS];
    let program = filter(separated).unwrap();
    CHECKED[separated.index()].get_or_init(|| kernel::check(program).unwrap());
    program
}

/// The same for a kernel that gives no listener.
fn refusing_program(separated: Separated) -> &'static [Instruction] {
    static CHECKED: [OnceLock<()>; Separated::VARIANTS] =
        [const { OnceLock::new() }; Separated::VARIANTS];
    let program = refusing(separated).unwrap();
    CHECKED[separated.index()].get_or_init(|| kernel::check(program).unwrap());
    program
}

fn compare(separated: Separated, call: &Call) {
    let expected = reference::answer(separated, call);
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    let held = libc::SECCOMP_RET_USER_NOTIF;
    let told = match expected {
        answer if answer == refused => held,
        answer => answer,
    };
    let answered = match expected {
        answer if answer == held => refused,
        answer => answer,
    };
    for (program, expected) in [
        (program(separated), told),
        (refusing_program(separated), answered),
    ] {
        let said = kernel::run(program, call);
        assert_eq!(
            said, expected,
            "{separated:?} {call:x?}: {said:#x}, and the lists say {expected:#x}"
        );
    }
    if call.arch == ARCH {
        let denied = denial(separated, call.number.into(), &call.arguments);
        assert_eq!(denied.is_some(), expected == refused, "{call:x?}");
        assert!(denied.is_none_or(|place| place < MOST_DENIALS));
    }
}

/// Calls one after another.
pub(crate) fn calls(bytes: &[u8]) {
    let mut decisions = Decisions(bytes);
    let separated = variant(decisions.below(Separated::VARIANTS));
    while !decisions.are_over() {
        compare(separated, &call(&mut decisions, separated));
    }
}

/// Conditions of every kind; a rule of a table has some that are neighbours.
const CONDITIONS: &[Condition] = &[
    Condition::Is(0, 0),
    Condition::Is(1, 7),
    Condition::IsNot(0, 7),
    Condition::IsNot(5, u32::MAX),
    Condition::Has(1, 1),
    Condition::Is(0, 1 << 31),
    Condition::Has(0, 1 << 63),
    Condition::Has(2, 0),
    Condition::IsNot(1, 0),
    Condition::Has(0, u64::MAX),
    Condition::Has(1, 0x8000_0001_8000_0001),
    Condition::Is(2, u32::MAX),
    Condition::Has(5, 1 << 32),
    Condition::Masked(1, 0xf, 2),
    Condition::Masked(0, 1 << 31, 1 << 31),
    Condition::Whole(5, 0x8000_0001_8000_0001),
    Condition::Whole(1, 7),
];

/// A table with any calls, rules and answers, and calls against it.
pub(crate) fn table(bytes: &[u8]) {
    let mut decisions = Decisions(bytes);
    let table = Table {
        missing: answer(&mut decisions),
        calls: numbers(&mut decisions)
            .into_iter()
            .map(|number| (number, verdict(&mut decisions)))
            .collect(),
    };
    let Some(program) = assemble(&table) else {
        // A leaf has at most as many instructions as its rules, four for each of their conditions,
        // and the number's comparison before it.
        assert!(table.calls.len() > 4096 / (3 * 18 + 3), "{table:x?}");
        return;
    };
    kernel::check(&program).unwrap();
    let mut numbers: Vec<u32> = table
        .calls
        .keys()
        .flat_map(|number| [number.wrapping_sub(1), *number, number.wrapping_add(1)])
        .chain([0, u32::MAX])
        .collect();
    numbers.dedup();
    let edges = ARGUMENTS.map(|index| edges(CONDITIONS, index));
    for number in numbers {
        for round in 0..4 {
            if round > 0 && decisions.are_over() {
                break;
            }
            let call = Call {
                number,
                arch: arch(&mut decisions),
                instruction_pointer: 0,
                arguments: arguments(&mut decisions, &edges),
            };
            let (said, expected) = (
                kernel::run(&program, &call),
                reference::value(&table, &call),
            );
            assert_eq!(said, expected, "{table:x?} {call:x?}");
        }
    }
}

/// Numbers of calls: a few anywhere, or many that are near each other.
fn numbers(decisions: &mut Decisions<'_>) -> Vec<u32> {
    let (first, step) = (decisions.word(), decisions.below(3));
    let count = match decisions.below(4) {
        0 => decisions.below(2000),
        _ => decisions.below(16),
    };
    let step = u32::try_from(step).unwrap();
    let many =
        (0..u32::try_from(count).unwrap()).map(|at| first.wrapping_add(at.wrapping_mul(step)));
    let few = [u32::MAX, decisions.word(), decisions.word()];
    let few = few.into_iter().take(decisions.below(4));
    many.chain(few).collect()
}

fn verdict(decisions: &mut Decisions<'_>) -> Verdict {
    let rules = (0..decisions.below(4)).map(|_| {
        let start = decisions.below(CONDITIONS.len());
        let end = start
            .saturating_add(decisions.below(5))
            .min(CONDITIONS.len());
        let conditions = CONDITIONS.get(start..end).unwrap();
        (conditions.into(), answer(decisions))
    });
    let rules = rules.collect();
    Verdict {
        rules,
        otherwise: answer(decisions),
    }
}

fn answer(decisions: &mut Decisions<'_>) -> Answer {
    match decisions.below(4) {
        0 => Answer::Allow,
        1 => Answer::KillProcess,
        _ => Answer::Errno(u16::try_from(decisions.below(4096)).unwrap()),
    }
}

/// A call of any kind, most often one that the lists tell apart.
fn call(decisions: &mut Decisions<'_>, separated: Separated) -> Call {
    let rules: Vec<&Rule> = rules(separated).chain(held_rules(separated)).collect();
    let rule = *decisions.one(&rules).unwrap();
    let number = match decisions.below(5) {
        0 => decisions.word(),
        1 => low(decisions.below(1024) as u64),
        2 => low(rule.call.cast_unsigned()) | X32,
        _ => low(rule.call.cast_unsigned()),
    };
    Call {
        number,
        arch: arch(decisions),
        instruction_pointer: 0,
        arguments: arguments(decisions, &ARGUMENTS.map(|index| edges(rule.when, index))),
    }
}

/// Most often this machine's.
fn arch(decisions: &mut Decisions<'_>) -> u32 {
    match decisions.below(8) {
        0 => decisions.word(),
        1 => *decisions.one(&FOREIGN).unwrap(),
        _ => ARCH,
    }
}

/// Most often of these values.
fn arguments(decisions: &mut Decisions<'_>, edges: &[Vec<u64>; 6]) -> [u64; 6] {
    edges.each_ref().map(|edges| {
        let edge = *decisions.one(edges).unwrap();
        match decisions.below(4) {
            0 => decisions.value(),
            1 => edge | u64::from(decisions.word()) << 32,
            2 => edge ^ 1 << decisions.below(64),
            _ => edge,
        }
    })
}

fn low(number: u64) -> u32 {
    u32::try_from(number & 0xffff_ffff).unwrap_or(0)
}

/// Values of an argument at which these conditions change.
fn edges(conditions: &[Condition], argument: usize) -> Vec<u64> {
    let bit = |shift: u32| 1_u64 << shift;
    let mut edges = vec![0, 1, u64::MAX, u32::MAX.into(), bit(31), bit(32), bit(63)];
    for condition in conditions {
        match *condition {
            Condition::Is(index, value) | Condition::IsNot(index, value)
                if usize::from(index) == argument =>
            {
                let value = u64::from(value);
                edges.extend([
                    value,
                    value ^ 1,
                    value.wrapping_add(1),
                    value.wrapping_sub(1),
                    value | bit(32),
                    value | 0xffff_ffff << 32,
                    value << 32,
                    !value,
                ]);
            }
            Condition::Whole(index, value) if usize::from(index) == argument => {
                let half = value & 0xffff_ffff;
                edges.extend([
                    value,
                    value ^ 1,
                    value ^ bit(32),
                    half,
                    half << 32,
                    value >> 32,
                ]);
            }
            Condition::Has(index, bits) if usize::from(index) == argument => {
                edges.extend([bits, !bits, bits << 32, !bits ^ bits & bits.wrapping_neg()]);
                // Its bits, and the others nearest to its lowest.
                let lowest = bits.trailing_zeros();
                let near = lowest.saturating_sub(1)..lowest.saturating_add(5).min(64);
                let own = (0..64).filter(|shift| bits & bit(*shift) != 0);
                edges.extend(own.chain(near).map(bit));
            }
            Condition::Masked(index, mask, value) if usize::from(index) == argument => {
                let (mask, value) = (u64::from(mask), u64::from(value));
                edges.extend([value, value | !mask, value ^ mask, value | bit(32)]);
                let own = (0..32).filter(|shift| mask & bit(*shift) != 0);
                edges.extend(own.map(|shift| value ^ bit(shift)));
            }
            _ => {}
        }
    }
    edges.sort_unstable();
    edges.dedup();
    edges
}

#[cfg(test)]
#[path = "misbehave_tests.rs"]
mod tests;
