//! Loads and stores of a single general register, as far as the syndrome of a data abort tells
//! their register and width (Arm ARM DDI 0487, section C4.1.94 for the encodings, D24.2.40 for the
//! syndrome).

/// What a data abort's syndrome says of the instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access {
    /// Binary logarithm of the number of bytes: SAS.
    pub(super) size: u8,
    /// SSE: a load that extends the sign.
    pub(super) sign_extend: bool,
    /// SRT: the register, 31 for the zero register.
    pub(super) register: u8,
    /// SF: the register is 64 bits wide.
    pub(super) wide: bool,
    /// WnR.
    pub(super) write: bool,
}

/// Decodes `instruction`. `None` where an abort would have no valid syndrome (ISV clear): pairs,
/// vectors, exclusives, atomics, and forms that write the address back.
pub(super) fn decode(instruction: u32) -> Option<Access> {
    let bits = |low: u32, count: u32| instruction >> low & !u32::MAX.wrapping_shl(count);
    let register = u8::try_from(bits(0, 5)).ok()?;
    let size = u8::try_from(bits(30, 2)).ok()?;
    // Load and store register: xx111 0xx. Bit 26 is for vectors.
    if bits(27, 3) == 0b111 && bits(26, 1) == 0 {
        let plain = match bits(24, 2) {
            // Unsigned immediate.
            0b01 => true,
            // Unscaled immediate, unprivileged; register offset. Not the two forms with
            // write-back, nor atomics.
            0b00 => matches!((bits(21, 1), bits(10, 2)), (0, 0b00 | 0b10) | (1, 0b10)),
            _ => false,
        };
        let (sign_extend, wide, write) = match (bits(22, 2), size) {
            (0b00, _) => (false, size == 3, true),
            (0b01, _) => (false, size == 3, false),
            // Prefetches and what is not allocated.
            (0b10, 3) | (0b11, 2 | 3) => return None,
            (opc, _) => (true, opc == 0b10, false),
        };
        return plain.then_some(Access {
            size,
            sign_extend,
            register,
            wide,
            write,
        });
    }
    // Load-acquire and store-release: xx001000 1L0.
    if bits(24, 6) == 0b00_1000 && bits(23, 1) == 1 && bits(21, 1) == 0 {
        return Some(Access {
            size,
            sign_extend: false,
            register,
            wide: size == 3,
            write: bits(22, 1) == 0,
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodings as `llvm-mc` gives them.
    #[test]
    fn instructions_are_told_apart() {
        let some = |size, sign_extend, register, wide, write| {
            Some(Access {
                size,
                sign_extend,
                register,
                wide,
                write,
            })
        };
        for (instruction, expected) in [
            (0xb900_0020, some(2, false, 0, false, true)), // str w0, [x1]
            (0xf940_0822, some(3, false, 2, true, false)), // ldr x2, [x1, #16]
            (0x3940_003f, some(0, false, 31, false, false)), // ldrb wzr, [x1]
            (0x7980_0023, some(1, true, 3, true, false)),  // ldrsh x3, [x1]
            (0x39c0_0024, some(0, true, 4, false, false)), // ldrsb w4, [x1]
            (0xb980_0025, some(2, true, 5, true, false)),  // ldrsw x5, [x1]
            (0xb862_6826, some(2, false, 6, false, false)), // ldr w6, [x1, x2]
            (0x7800_1027, some(1, false, 7, false, true)), // sturh w7, [x1, #1]
            (0x88df_fc28, some(2, false, 8, false, false)), // ldar w8, [x1]
            (0xc89f_fc29, some(3, false, 9, true, true)),  // stlr x9, [x1]
            (0xb840_442a, None),                           // ldr w10, [x1], #4
            (0xb840_4c2b, None),                           // ldr w11, [x1, #4]!
            (0xa940_3029, None),                           // ldp x9, x12, [x1]
            (0x885f_7c2d, None),                           // ldxr w13, [x1]
            (0xb82e_002f, None),                           // ldadd w14, w15, [x1]
            (0x3dc0_0020, None),                           // ldr q0, [x1]
            (0xf980_0020, None),                           // prfm pldl1keep, [x1]
            (0xd503_201f, None),                           // nop
        ] {
            assert_eq!(decode(instruction), expected, "{instruction:#010x}");
        }
    }

    #[test]
    fn every_word_is_decoded_or_not() {
        // A step that is odd and large visits words of all classes.
        for step in 0..1_000_000_u32 {
            if let Some(access) = decode(step.wrapping_mul(0x9e37_79b1)) {
                assert!(access.size < 4 && access.register < 32);
                assert!(!(access.write && access.sign_extend));
            }
        }
    }
}
