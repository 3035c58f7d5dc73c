//! Runs programs as the kernel does, and compares them with tables.

use super::super::{Separated, table};
use super::*;

fn low(argument: u64) -> u32 {
    u32::try_from(argument & 0xffff_ffff).unwrap()
}

/// The words of a `struct seccomp_data`, whose arguments are little-endian on both architectures.
fn words(arch: u32, number: u32, arguments: [u64; 6]) -> Vec<u32> {
    let mut words = vec![number, arch, 0, 0];
    for argument in arguments {
        words.push(low(argument));
        words.push(low(argument >> 32));
    }
    words
}

fn run(program: &[Instruction], data: &[u32]) -> u32 {
    let (mut at, mut accumulator) = (0, 0_u32);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let taken = match code {
            LOAD => {
                assert_eq!(k % 4, 0);
                accumulator = data[k as usize / 4];
                continue;
            }
            JUMP => {
                at += k as usize;
                continue;
            }
            AND => {
                accumulator &= k;
                continue;
            }
            RETURN => return k,
            IF_EQUAL => accumulator == k,
            IF_AT_LEAST => accumulator >= k,
            IF_BITS => accumulator & k != 0,
            other => panic!("instruction {other:#x}"),
        };
        at += usize::from(if taken { jt } else { jf });
    }
}

/// What the table says.
fn expected(table: &Table, number: u32, arguments: [u64; 6]) -> u32 {
    let holds = |condition: &Condition| match *condition {
        Condition::Is(at, value) => low(arguments[usize::from(at)]) == value,
        Condition::IsNot(at, value) => low(arguments[usize::from(at)]) != value,
        Condition::Masked(at, mask, value) => low(arguments[usize::from(at)]) & mask == value,
        Condition::Whole(at, value) => arguments[usize::from(at)] == value,
        Condition::Has(at, bits) => arguments[usize::from(at)] & bits != 0,
    };
    let answer = table.calls.get(&number).map_or(table.missing, |verdict| {
        let rule = verdict
            .rules
            .iter()
            .find(|(when, _)| when.iter().all(holds));
        rule.map_or(verdict.otherwise, |(_, answer)| *answer)
    });
    answer.value()
}

/// Values at which a condition changes.
fn edges(table: &Table, number: u32) -> Vec<u64> {
    let mut edges = vec![0, 1, u64::from(u32::MAX), u64::MAX, 1 << 32, 1 << 63];
    let rules = table
        .calls
        .get(&number)
        .into_iter()
        .flat_map(|verdict| &verdict.rules);
    for condition in rules.flat_map(|(when, _)| when.iter()) {
        match *condition {
            Condition::Is(_, value) | Condition::IsNot(_, value) => {
                let value = u64::from(value);
                edges.extend([value, value ^ 1, value | 1 << 32, value | 0xffff_ffff << 32]);
            }
            Condition::Masked(_, mask, value) => {
                let (mask, value) = (u64::from(mask), u64::from(value));
                let outside = u64::from(u32::MAX) & !mask;
                edges.extend([value, value | outside, value ^ mask, value | 1 << 32]);
            }
            Condition::Whole(_, value) => {
                edges.extend([value, value ^ 1, value ^ 1 << 32, value << 32, value >> 32]);
            }
            Condition::Has(_, bits) => {
                let each = (0..64).map(|shift| 1 << shift);
                edges.extend(each.clone().filter(|bit| bits & bit != 0));
                edges.extend([bits, !bits]);
                edges.extend(each.filter(|bit| bits & bit == 0).take(3));
            }
        }
    }
    edges
}

#[test]
fn every_call_gets_what_its_table_says() {
    for separated in Separated::all() {
        let table = table(separated);
        let program = assemble(&table).unwrap();
        let numbers = (0..1024).chain([0x4000_0000, 0x4000_0001, 0x4000_0221, u32::MAX]);
        for number in numbers {
            let edges = edges(&table, number);
            // Every pair of edges in the first two arguments and in the next two.
            for (x, first) in edges.iter().enumerate() {
                for second in edges.get(if edges.len() > 6 { 0 } else { x }..).unwrap() {
                    let arguments = [*first, *second, *first, *second, 0, 0];
                    let data = words(AUDIT_ARCH, number, arguments);
                    let answer = run(&program, &data);
                    assert_eq!(
                        answer,
                        expected(&table, number, arguments),
                        "{number} {arguments:x?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_foreign_architecture_kills() {
    let program = assemble(&table(Separated::all().next().unwrap())).unwrap();
    for arch in [0x4000_0003, 0x4000_0028, 0, u32::MAX] {
        for number in [0, 1, 59, 221] {
            let answer = run(&program, &words(arch, number, [0; 6]));
            assert_eq!(answer, Answer::KillProcess.value());
        }
    }
}

#[test]
fn the_tree_is_shallow_and_the_kernel_would_take_it() {
    for separated in Separated::all() {
        let program = assemble(&table(separated)).unwrap();
        assert!(program.len() < 1024, "{} instructions", program.len());
        for (at, Instruction { code, jt, jf, k }) in program.iter().enumerate() {
            let furthest = match *code {
                JUMP => *k as usize,
                RETURN => continue,
                LOAD | AND => 0,
                _ => usize::from((*jt).max(*jf)),
            };
            assert!(at + 1 + furthest < program.len());
        }
        assert_eq!(program.last().unwrap().code, RETURN);
    }
}

#[test]
fn long_jumps_are_made() {
    let calls = (0..2000_u32)
        .map(|number| {
            (
                number * 2,
                Verdict::always(Answer::Errno(u16::try_from(number % 4000).unwrap())),
            )
        })
        .collect();
    let table = Table {
        calls,
        missing: Answer::Allow,
    };
    assert!(assemble(&table).is_none(), "longer than the kernel takes");
    let calls = table.calls.into_iter().take(600).collect();
    let table = Table { calls, ..table };
    let program = assemble(&table).unwrap();
    for number in 0..1300 {
        let answer = run(&program, &words(AUDIT_ARCH, number, [0; 6]));
        assert_eq!(answer, expected(&table, number, [0; 6]));
    }
}
