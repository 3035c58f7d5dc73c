//! System registers that the hypervisor traps: they read as zero and ignore writes.
//!
//! For all of them this is a value that the architecture allows, or one that kernels take as "not
//! there". A register that is not known here does the same, with a line in the log.

use super::syndrome::Encoding;

/// Why a register is expected to trap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// Breakpoints, the debug channel (`MDCCINT_EL1` among them) and the OS lock: all of `op0` 2.
    Debug,
    /// Limited ordering regions.
    OrderingRegions,
    /// Performance counters.
    Counters,
    /// Anything else.
    Unknown,
}

impl Group {
    pub(super) const fn of(register: Encoding) -> Self {
        let Encoding {
            op0, op1, crn, crm, ..
        } = register;
        match (op0, op1, crn, crm) {
            (2, ..) => Self::Debug,
            (3, 0, 10, 4) => Self::OrderingRegions,
            // PMCR_EL0 and its neighbours, PMINTEN*_EL1 and PMMIR_EL1, the event counters.
            (3, 3, 9, 12..=14) | (3, 0, 9, 14) | (3, 3, 14, 8..=15) => Self::Counters,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_by_name() {
        for (name, (op0, op1, crn, crm, op2), group) in [
            ("MDCCINT_EL1", (2, 0, 0, 2, 0), Group::Debug),
            ("MDSCR_EL1", (2, 0, 0, 2, 2), Group::Debug),
            ("DBGBVR3_EL1", (2, 0, 0, 3, 4), Group::Debug),
            ("OSLAR_EL1", (2, 0, 1, 0, 4), Group::Debug),
            ("OSDLR_EL1", (2, 0, 1, 3, 4), Group::Debug),
            ("DBGDTR_EL0", (2, 3, 0, 4, 0), Group::Debug),
            ("LORC_EL1", (3, 0, 10, 4, 3), Group::OrderingRegions),
            ("LORID_EL1", (3, 0, 10, 4, 7), Group::OrderingRegions),
            ("PMCR_EL0", (3, 3, 9, 12, 0), Group::Counters),
            ("PMCCNTR_EL0", (3, 3, 9, 13, 0), Group::Counters),
            ("PMUSERENR_EL0", (3, 3, 9, 14, 0), Group::Counters),
            ("PMINTENSET_EL1", (3, 0, 9, 14, 1), Group::Counters),
            ("PMMIR_EL1", (3, 0, 9, 14, 6), Group::Counters),
            ("PMEVCNTR0_EL0", (3, 3, 14, 8, 0), Group::Counters),
            ("PMCCFILTR_EL0", (3, 3, 14, 15, 7), Group::Counters),
            ("CNTPCT_EL0", (3, 3, 14, 0, 1), Group::Unknown),
            ("ACTLR_EL1", (3, 0, 1, 0, 1), Group::Unknown),
            ("DC ISW", (1, 0, 7, 6, 2), Group::Unknown),
        ] {
            let register = Encoding {
                op0,
                op1,
                crn,
                crm,
                op2,
            };
            assert_eq!(Group::of(register), group, "{name}");
        }
    }
}
