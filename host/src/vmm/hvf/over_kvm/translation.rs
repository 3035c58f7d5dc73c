//! From a virtual address of the guest's kernel to a physical one: a walk through its page tables
//! (Arm ARM DDI 0487, section D8.2), with 48-bit descriptors and every granule.

/// The registers that say how addresses are translated at EL1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Regime {
    pub(super) sctlr: u64,
    pub(super) tcr: u64,
    pub(super) ttbr0: u64,
    pub(super) ttbr1: u64,
}

/// Output and table addresses: bits 47 to 0.
const ADDRESS: u64 = (1 << 48) - 1;

/// Translates `address`. `read` gives the 8 bytes at a physical address. `None` where the guest
/// has no translation, or one of a kind that is not known here.
pub(super) fn translate(
    regime: &Regime,
    address: u64,
    read: impl Fn(u64) -> Option<u64>,
) -> Option<u64> {
    if regime.sctlr & 1 == 0 {
        return Some(address);
    }
    let high = address >> 55 & 1 == 1;
    let (table, size, granule): (u64, u64, u64) = if high {
        let granule = match regime.tcr >> 30 & 3 {
            0b01 => 14,
            0b10 => 12,
            0b11 => 16,
            _ => return None,
        };
        (regime.ttbr1, regime.tcr >> 16 & 0x3f, granule)
    } else {
        let granule = match regime.tcr >> 14 & 3 {
            0b00 => 12,
            0b01 => 16,
            0b10 => 14,
            _ => return None,
        };
        (regime.ttbr0, regime.tcr & 0x3f, granule)
    };
    // Larger descriptors (TCR_EL1.DS) are laid out differently.
    if regime.tcr >> 59 & 1 == 1 || !(16..=48).contains(&size) {
        return None;
    }
    let bits = 64_u64.saturating_sub(size);
    // Bits of the address that one level resolves.
    let stride = granule.saturating_sub(3);
    let mut level_bits = bits
        .checked_sub(granule)?
        .div_ceil(stride)
        .checked_mul(stride)?;
    let offset = address & mask(bits);
    let mut table = table & ADDRESS & !1;
    loop {
        level_bits = level_bits.checked_sub(stride)?;
        let shift = level_bits.saturating_add(granule);
        let index = offset >> shift & mask(stride);
        let descriptor = read(table.checked_add(index << 3)?)?;
        let next = descriptor & ADDRESS;
        match (descriptor & 3, level_bits) {
            // A page, or a block.
            (0b11, 0) | (0b01, 1..) => return Some(next & !mask(shift) | offset & mask(shift)),
            (0b11, _) => table = next & !mask(granule),
            _ => return None,
        }
    }
}

/// So many ones.
fn mask(bits: u64) -> u64 {
    let above = u32::try_from(bits)
        .ok()
        .and_then(|bits| u64::MAX.checked_shl(bits));
    !above.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// 4 KiB granules, 39 bits below and 48 above.
    const TCR: u64 = 25 | 16 << 16 | 0b10 << 30;

    fn regime() -> Regime {
        Regime {
            sctlr: 1,
            tcr: TCR,
            ttbr0: 0x1000,
            ttbr1: 7 << 48 | 0x2001,
        }
    }

    fn check(entries: &[(u64, u64)], address: u64, expected: Option<u64>) {
        let memory: HashMap<_, _> = entries.iter().copied().collect();
        let found = translate(&regime(), address, |at| memory.get(&at).copied());
        assert_eq!(found, expected, "{address:#x}");
    }

    #[test]
    fn pages_and_blocks_are_found() {
        // Three levels below: 1 GiB, 2 MiB, 4 KiB.
        let low = 5 << 30 | 6 << 21 | 7 << 12 | 0x123;
        let pages = [
            (0x1000 + 5 * 8, 0x9000 | 3),
            (0x9000 + 6 * 8, 0xa000 | 3 | 1 << 59),
            (0xa000 + 7 * 8, 0x4567_8000 | 3 | 1 << 54 | 0x700),
        ];
        check(&pages, low, Some(0x4567_8123));
        check(&pages, low + 0x1000, None);
        check(&pages[..2], low, None);
        // Four levels above, with a block of 2 MiB.
        let high = 0xffff << 48 | 1 << 39 | 2 << 30 | 3 << 21 | 0x1_2345;
        let blocks = [
            (0x2000 + 8, 0xb000 | 3),
            (0xb000 + 2 * 8, 0xc000 | 3),
            (0xc000 + 3 * 8, 0x8060_0000 | 1),
        ];
        check(&blocks, high, Some(0x8061_2345));
    }

    #[test]
    fn without_translation_addresses_stay() {
        let off = Regime {
            sctlr: 0,
            ..regime()
        };
        assert_eq!(translate(&off, 0x8000_0000, |_| None), Some(0x8000_0000));
    }

    #[test]
    fn any_registers_end_somewhere() {
        let mut seed = 1_u64;
        let mut next = || {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            seed ^ seed >> 29
        };
        for _ in 0..100_000 {
            let regime = Regime {
                sctlr: 1,
                tcr: next(),
                ttbr0: next(),
                ttbr1: next(),
            };
            let answer = next() | 3;
            translate(&regime, next(), |_| Some(answer));
        }
    }
}
