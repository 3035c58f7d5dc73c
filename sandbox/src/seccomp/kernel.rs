//! What the kernel does with a filter: refuses it, or runs it.
//!
//! Written from `kernel/seccomp.c` (`seccomp_check_filter`) and `net/core/filter.c` (`bpf_check_classic`), and from nothing that makes filters. It takes less
//! than the kernel does: scratch memory, the index register and arithmetic other than "and" are
//! refused, because no filter of ours has a use for them.

#![expect(clippy::panic, reason = "tests may fail")]

use super::bpf::Instruction;

/// `struct seccomp_data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) number: u32,
    pub(super) arch: u32,
    pub(super) instruction_pointer: u64,
    pub(super) arguments: [u64; 6],
}

/// Instructions of a program at most, `BPF_MAXINSNS`.
const MOST: usize = 4096;
/// `sizeof(struct seccomp_data)`.
const DATA: u32 = 64;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_AT_LEAST: u16 = 0x35;
const IF_BITS: u16 = 0x45;
const RETURN: u16 = 0x06;

impl Call {
    /// The 32-bit word at this offset. Both architectures have the low half of a number first.
    fn load(&self, offset: u32) -> u32 {
        let half = |number: u64| {
            let bits = if offset.is_multiple_of(8) { 0 } else { 32 };
            u32::try_from(number >> bits & 0xffff_ffff).unwrap_or(0)
        };
        match offset {
            0 => self.number,
            4 => self.arch,
            8 | 12 => half(self.instruction_pointer),
            _ => {
                let index = usize::try_from(offset / 8)
                    .ok()
                    .and_then(|at| at.checked_sub(2));
                let argument = index.and_then(|index| self.arguments.get(index));
                half(*argument.unwrap_or_else(|| panic!("a load at {offset}")))
            }
        }
    }
}

/// Whether the kernel takes a program.
pub(super) fn check(program: &[Instruction]) -> Result<(), String> {
    if program.is_empty() || program.len() > MOST {
        return Err(format!("a program of {} instructions", program.len()));
    }
    for (at, instruction) in program.iter().enumerate() {
        let Instruction { code, jt, jf, k } = *instruction;
        // Instructions that follow this one.
        let following = program.len() - at - 1;
        let reaches = |distance: usize| distance < following;
        let good = match code {
            LOAD => k.is_multiple_of(4) && k < DATA,
            AND | RETURN => true,
            JUMP => usize::try_from(k).is_ok_and(reaches),
            IF_EQUAL | IF_GREATER | IF_AT_LEAST | IF_BITS => {
                reaches(jt.into()) && reaches(jf.into())
            }
            _ => false,
        };
        if !good {
            return Err(format!("{instruction:x?} at {at} of {}", program.len()));
        }
    }
    match program.last() {
        Some(Instruction { code: RETURN, .. }) => Ok(()),
        last => Err(format!("{last:x?} at the end")),
    }
}

/// What a program that was checked returns.
pub(super) fn run(program: &[Instruction], call: &Call) -> u32 {
    let mut rest = program.iter();
    let mut accumulator = 0_u32;
    while let Some(Instruction { code, jt, jf, k }) = rest.next() {
        let skip = |yes: bool| usize::from(if yes { *jt } else { *jf });
        let skipped = match *code {
            LOAD => {
                accumulator = call.load(*k);
                0
            }
            AND => {
                accumulator &= k;
                0
            }
            RETURN => return *k,
            JUMP => usize::try_from(*k).unwrap_or(usize::MAX),
            IF_EQUAL => skip(accumulator == *k),
            IF_GREATER => skip(accumulator > *k),
            IF_AT_LEAST => skip(accumulator >= *k),
            IF_BITS => skip(accumulator & k != 0),
            _ => panic!("instruction {code:#x}"),
        };
        if let Some(last) = skipped.checked_sub(1) {
            rest.nth(last);
        }
    }
    panic!("a program that does not return")
}
