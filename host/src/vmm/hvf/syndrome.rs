//! `ESR_EL2` in plain data: why the guest came to the hypervisor.
//!
//! Names are those of the Arm Architecture Reference Manual. Decoding is total: what is reserved or
//! unknown keeps its number.

/// A decoded syndrome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Syndrome {
    /// WFI, WFE and their kin.
    Wait(Wait),
    /// HVC of 64-bit code, with its immediate.
    Hvc(u16),
    /// SMC of 64-bit code, with its immediate.
    Smc(u16),
    /// MSR, MRS or a system instruction.
    SystemRegister(SystemAccess),
    /// An instruction's own fetch.
    InstructionAbort,
    /// A load, store or cache maintenance at an address without memory.
    DataAbort(DataAbort),
    /// Another exception class, by its number.
    Other(u8),
}

/// A load or store that the guest's stage 2 refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DataAbort {
    /// The access, if the syndrome describes it (`ISV`).
    pub(crate) access: Option<Access>,
    /// Cache maintenance or address translation (`CM`).
    pub(crate) is_cache_maintenance: bool,
    /// The guest's page tables were to be read or written (`S1PTW`).
    pub(crate) is_table_walk: bool,
    /// Store (`WnR`).
    pub(crate) is_write: bool,
}

/// What a load or store moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    /// 1, 2, 4 or 8 bytes (`SAS`).
    pub(crate) size: usize,
    /// A load extends the sign (`SSE`).
    pub(crate) is_signed: bool,
    /// The register has 64 bits (`SF`), not 32.
    pub(crate) is_wide: bool,
    /// From or to where (`SRT`).
    pub(crate) register: Rt,
}

/// A general register as an instruction names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rt {
    /// `X0` to `X30`.
    X(u8),
    /// Reads as zero, ignores writes.
    Xzr,
}

/// Access to a system register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SystemAccess {
    /// Which one.
    pub(crate) register: Encoding,
    /// From or to where.
    pub(crate) rt: Rt,
    /// MRS, not MSR.
    pub(crate) is_read: bool,
}

/// The name of a system register in an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Encoding {
    pub(crate) op0: u8,
    pub(crate) op1: u8,
    pub(crate) crn: u8,
    pub(crate) crm: u8,
    pub(crate) op2: u8,
}

/// What waits, and for how long (`TI`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// For an interrupt.
    Wfi,
    /// For an event.
    Wfe,
    /// For an interrupt, until the virtual counter has the register's value, if that is known.
    Wfit(Option<Rt>),
    /// For an event, until then.
    Wfet,
}

impl Syndrome {
    pub(crate) fn decode(syndrome: u64) -> Self {
        match field(syndrome, 26, 6) {
            0x01 => Self::Wait(Wait::decode(syndrome)),
            0x16 => Self::Hvc(immediate(syndrome)),
            0x17 => Self::Smc(immediate(syndrome)),
            0x18 => Self::SystemRegister(SystemAccess::decode(syndrome)),
            0x20 => Self::InstructionAbort,
            0x24 => Self::DataAbort(DataAbort::decode(syndrome)),
            class => Self::Other(class),
        }
    }
}

impl Wait {
    /// Its number in a syndrome.
    pub(crate) const fn indicator(self) -> u64 {
        match self {
            Self::Wfi => 0,
            Self::Wfe => 1,
            Self::Wfit(_) => 2,
            Self::Wfet => 3,
        }
    }

    fn decode(syndrome: u64) -> Self {
        match field(syndrome, 0, 2) {
            0 => Self::Wfi,
            1 => Self::Wfe,
            2 => Self::Wfit(is_set(syndrome, 2).then(|| Rt::decode(syndrome, 5))),
            _ => Self::Wfet,
        }
    }
}

impl SystemAccess {
    fn decode(syndrome: u64) -> Self {
        Self {
            register: Encoding {
                op0: field(syndrome, 20, 2),
                op1: field(syndrome, 14, 3),
                crn: field(syndrome, 10, 4),
                crm: field(syndrome, 1, 4),
                op2: field(syndrome, 17, 3),
            },
            rt: Rt::decode(syndrome, 5),
            is_read: is_set(syndrome, 0),
        }
    }
}

impl DataAbort {
    fn decode(syndrome: u64) -> Self {
        let access = Access {
            size: match field(syndrome, 22, 2) {
                0 => 1,
                1 => 2,
                2 => 4,
                _ => 8,
            },
            is_signed: is_set(syndrome, 21),
            is_wide: is_set(syndrome, 15),
            register: Rt::decode(syndrome, 16),
        };
        Self {
            access: is_set(syndrome, 24).then_some(access),
            is_cache_maintenance: is_set(syndrome, 8),
            is_table_walk: is_set(syndrome, 7),
            is_write: is_set(syndrome, 6),
        }
    }
}

impl Access {
    /// What the register gets by a load of `bytes`, of which those beyond the size are zero.
    pub(crate) fn loaded(&self, bytes: [u8; 8]) -> u64 {
        let [a, b, c, d, ..] = bytes;
        let value = match (self.is_signed, self.size) {
            (true, 1) => i64::from(i8::from_le_bytes([a])).cast_unsigned(),
            (true, 2) => i64::from(i16::from_le_bytes([a, b])).cast_unsigned(),
            (true, 4) => i64::from(i32::from_le_bytes([a, b, c, d])).cast_unsigned(),
            _ => u64::from_le_bytes(bytes),
        };
        if self.is_wide {
            value
        } else {
            value & u64::from(u32::MAX)
        }
    }
}

impl Encoding {
    /// All fields in one number, the way a syndrome has them.
    pub(crate) fn bits(&self) -> u64 {
        let at = |value: u8, bit: u32| u64::from(value).wrapping_shl(bit);
        at(self.op0, 20) | at(self.op2, 17) | at(self.op1, 14) | at(self.crn, 10) | at(self.crm, 1)
    }
}

impl Rt {
    fn decode(syndrome: u64, lowest_bit: u32) -> Self {
        match field(syndrome, lowest_bit, 5) {
            31 => Self::Xzr,
            number => Self::X(number),
        }
    }
}

impl std::fmt::Display for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            op0,
            op1,
            crn,
            crm,
            op2,
        } = self;
        write!(f, "S{op0}_{op1}_C{crn}_C{crm}_{op2}")
    }
}

/// `width` bits, at most 8, from `lowest_bit`.
fn field(syndrome: u64, lowest_bit: u32, width: u32) -> u8 {
    let [byte, ..] = syndrome.wrapping_shr(lowest_bit).to_le_bytes();
    let beyond = 8_u32.saturating_sub(width);
    byte.wrapping_shl(beyond).wrapping_shr(beyond)
}

fn is_set(syndrome: u64, bit: u32) -> bool {
    field(syndrome, bit, 1) == 1
}

fn immediate(syndrome: u64) -> u16 {
    let [low, high, ..] = syndrome.to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syndromes_that_processors_gave() {
        let load = |size, is_signed, is_wide, register| Access {
            size,
            is_signed,
            is_wide,
            register,
        };
        let abort = |access, is_write| {
            Syndrome::DataAbort(DataAbort {
                access,
                is_cache_maintenance: false,
                is_table_walk: false,
                is_write,
            })
        };
        let cases = [
            // wfi, wfe, wfit x3, wfit of an unknown register, wfet x3
            (0x0600_0000, Syndrome::Wait(Wait::Wfi)),
            (0x0600_0001, Syndrome::Wait(Wait::Wfe)),
            (0x0600_0066, Syndrome::Wait(Wait::Wfit(Some(Rt::X(3))))),
            (0x0600_0062, Syndrome::Wait(Wait::Wfit(None))),
            (0x0600_0067, Syndrome::Wait(Wait::Wfet)),
            // hvc #0, hvc #0xffff, smc #1
            (0x5a00_0000, Syndrome::Hvc(0)),
            (0x5a00_ffff, Syndrome::Hvc(0xffff)),
            (0x5e00_0001, Syndrome::Smc(1)),
            // str w0, [x1]; ldrb w2; ldrsh x3; str xzr
            (
                0x9380_0046,
                abort(Some(load(4, false, false, Rt::X(0))), true),
            ),
            (
                0x9302_0006,
                abort(Some(load(1, false, false, Rt::X(2))), false),
            ),
            (
                0x9363_8006,
                abort(Some(load(2, true, true, Rt::X(3))), false),
            ),
            (
                0x93df_8046,
                abort(Some(load(8, false, true, Rt::Xzr)), true),
            ),
            // stp: no ISV
            (0x9200_0046, abort(None, true)),
            (0x8200_0006, Syndrome::InstructionAbort),
            (0xf200_0000, Syndrome::Other(0x3c)),
            (0, Syndrome::Other(0)),
            (u64::MAX, Syndrome::Other(0x3f)),
        ];
        for (syndrome, expected) in cases {
            assert_eq!(Syndrome::decode(syndrome), expected, "{syndrome:#x}");
        }
    }

    #[test]
    fn flags_of_a_data_abort() {
        let decode = |syndrome| match Syndrome::decode(syndrome) {
            Syndrome::DataAbort(abort) => abort,
            other => panic!("{other:?}"),
        };
        assert!(decode(0x9200_0146).is_cache_maintenance);
        assert!(decode(0x9200_0086).is_table_walk);
        assert!(!decode(0x9200_0006).is_write);
    }

    #[test]
    fn system_registers_are_named() {
        // mrs x5, mdccint_el1; msr oslar_el1, xzr
        for (syndrome, name, rt, is_read) in [
            (0x6220_00a5, "S2_0_C0_C2_0", Rt::X(5), true),
            (0x6228_07e0, "S2_0_C1_C0_4", Rt::Xzr, false),
        ] {
            let Syndrome::SystemRegister(access) = Syndrome::decode(syndrome) else {
                panic!("{syndrome:#x}");
            };
            assert_eq!(access.register.to_string(), name);
            assert_eq!((access.rt, access.is_read), (rt, is_read));
        }
    }
}
