//! Every call of every variant, and whether a wrong filter would be noticed.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const NUMBERS: std::ops::Range<u32> = 0..1024;

fn plain(number: u32) -> Call {
    Call {
        number,
        arch: ARCH,
        instruction_pointer: 0,
        arguments: [0; 6],
    }
}

/// The arguments that conditions look at, with every combination of their edges.
fn combinations(conditions: &[Condition]) -> Vec<[u64; 6]> {
    let mut all = vec![[u64::MAX; 6]];
    let looked_at: BTreeSet<usize> = conditions
        .iter()
        .map(|condition| match *condition {
            Condition::Is(index, _)
            | Condition::IsNot(index, _)
            | Condition::Whole(index, _)
            | Condition::Has(index, _)
            | Condition::Masked(index, ..) => index.into(),
        })
        .collect();
    let mut made = vec![[0; 6]];
    for index in looked_at {
        let edges = edges(conditions, index);
        made = made
            .iter()
            .flat_map(|arguments| {
                edges.iter().map(move |edge| {
                    let mut arguments = *arguments;
                    arguments[index] = *edge;
                    arguments
                })
            })
            .collect();
    }
    all.extend(made);
    all
}

#[test]
fn every_call_is_answered_as_the_lists_say_in_every_variant() {
    // With nothing separated every rule counts.
    let all: Vec<&Rule> = rules(variant(0)).chain(held_rules(variant(0))).collect();
    let numbers = NUMBERS.chain(NUMBERS.map(|number| number | X32));
    for number in numbers.chain([u32::MAX, 1 << 31, 1 << 16]) {
        let conditions: Vec<Condition> = all
            .iter()
            .filter(|rule| rule.call == i64::from(number))
            .flat_map(|rule| rule.when.iter().copied())
            .collect();
        let combinations = combinations(&conditions);
        // Of a call with many: nothing, one thing, all but one, and everything separated.
        let few =
            |bits: &usize| matches!(bits.count_ones(), 0 | 1) || (!bits & 0xff).count_ones() < 2;
        let all_variants = combinations.len() <= 64;
        for arguments in combinations {
            for bits in (0..Separated::VARIANTS).filter(|bits| all_variants || few(bits)) {
                let call = Call {
                    arguments,
                    ..plain(number)
                };
                compare(variant(bits), &call);
            }
        }
        for arch in FOREIGN.into_iter().chain([0, u32::MAX, !ARCH, ARCH ^ 1]) {
            let call = Call {
                arch,
                ..plain(number)
            };
            compare(variant(0), &call);
        }
    }
}

proptest! {
    #[test]
    fn any_call_is_answered_as_the_lists_say(
        bytes in prop::collection::vec(any::<u8>(), 0..500),
    ) {
        calls(&bytes);
    }

    #[test]
    fn any_table_becomes_a_program_that_says_the_same(
        bytes in prop::collection::vec(any::<u8>(), 0..500),
    ) {
        table(&bytes);
    }
}

/// Found by the fuzz target `sandbox_tables`: the highest number was answered as one not listed.
#[test]
fn the_highest_number_is_one_like_others() {
    let verdict = Verdict::always(Answer::KillProcess);
    let table = Table {
        calls: [(u32::MAX, verdict)].into(),
        missing: Answer::Allow,
    };
    let program = assemble(&table).unwrap();
    let answer = |number| kernel::run(&program, &plain(number));
    assert_eq!(answer(u32::MAX), libc::SECCOMP_RET_KILL_PROCESS);
    assert_eq!(answer(u32::MAX - 1), libc::SECCOMP_RET_ALLOW);
}

/// Each of these breaks one of the kernel's rules.
#[test]
fn what_the_kernel_refuses_is_found() {
    let one = |code, jt, jf, k| Instruction { code, jt, jf, k };
    let answer = one(0x06, 0, 0, 0);
    let good = vec![one(0x20, 0, 0, 60), one(0x15, 1, 0, 7), answer, answer];
    kernel::check(&good).unwrap();
    kernel::check(&vec![answer; 4096]).unwrap();
    kernel::check(&[]).unwrap_err();
    kernel::check(&vec![answer; 4097]).unwrap_err();
    for (at, bad) in [
        (0, one(0x20, 0, 0, 64)),
        (0, one(0x20, 0, 0, 58)),
        (0, one(0x28, 0, 0, 0)),
        (0, one(0x05, 0, 0, 3)),
        (0, one(0x05, 0, 0, u32::MAX)),
        (1, one(0x15, 2, 0, 7)),
        (1, one(0x15, 0, 2, 7)),
        (1, one(0x00, 0, 0, 0)),
        (3, one(0x20, 0, 0, 0)),
        (3, one(0x15, 0, 0, 0)),
    ] {
        let mut program = good.clone();
        program[at] = bad;
        kernel::check(&program).unwrap_err();
    }
}
