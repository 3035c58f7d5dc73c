//! The guest's map of physical addresses and interrupts. Every address there is comes from here:
//! the engines, the devices and the device tree ask.
//!
//! ```text
//! 0x0000_0000  nothing, so that a null pointer of the guest hits nothing
//! 0x0900_0000  PL011, the console                    4 KiB
//! 0x0a00_0000  virtio-mmio: blk, rng, vsock          4 KiB each
//! 0x1000_0000  GICv3 distributor                    64 KiB
//! 0x1100_0000  GICv3 redistributors                128 KiB for each processor
//!              nothing: room for larger controllers
//! 0x8000_0000  memory                               32 MiB to 62 GiB
//! 0x10_0000_0000  the end of 36 bits of address
//! ```
//! 36 bits is what every Apple processor gives to a guest without being asked. Whatever an engine
//! maps is a multiple of 16 KiB, as Hypervisor.framework demands, and lies at one.
//!
//! Interrupts are shared peripheral ones, level-sensitive.

use super::BoardError;
use crate::vmm::devices::pl011;
use crate::vmm::devices::virtio::mmio;
use std::ops::Range;

/// Bits of a guest-physical address.
const ADDRESS_BITS: u32 = 36;

const UART: u64 = 0x0900_0000;
const VIRTIO: u64 = 0x0a00_0000;
const GIC_DISTRIBUTOR: u64 = 0x1000_0000;
const GIC_REDISTRIBUTORS: u64 = 0x1100_0000;
const RAM: u64 = 0x8000_0000;

/// From one virtio device to the next: a page, which is more than the window.
const VIRTIO_STRIDE: u64 = 0x1000;

/// Arm IHI 0069 (GICv3), 12.8 and 12.10: frames of 64 KiB, two for each redistributor.
const GIC_DISTRIBUTOR_SIZE: u64 = 64 << 10;
const GIC_REDISTRIBUTOR_SIZE: u64 = 128 << 10;

/// The number of the first shared peripheral interrupt.
pub(crate) const FIRST_SPI: u32 = 32;

const UART_INTERRUPT: u32 = FIRST_SPI + 1;
const VIRTIO_INTERRUPTS: u32 = FIRST_SPI + 16;

/// Interrupts of the controller, private ones included: a multiple of 32 and at least 64.
const INTERRUPTS: u32 = 64;

/// Least and most memory of a guest, in bytes.
pub(crate) const LEAST_MEMORY: u64 = 32 << 20;
/// See [`LEAST_MEMORY`].
pub(crate) const MOST_MEMORY: u64 = (1 << ADDRESS_BITS) - RAM;

/// Memory comes in multiples of this, in bytes.
pub(crate) const MEMORY_GRANULE: u64 = 2 << 20;

/// Most processors of a guest.
pub(crate) const MOST_CPUS: u8 = 64;

/// Where a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Of its registers.
    pub(crate) address: u64,
    /// Length of the window, in bytes.
    pub(crate) size: u64,
    /// Its interrupt, by the controller's number.
    pub(crate) intid: u32,
}

/// The virtio devices, in the order of their places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VirtioSlot {
    /// The root file system.
    Blk,
    /// Random numbers.
    Rng,
    /// Streams to this side.
    Vsock,
}

impl VirtioSlot {
    pub(crate) const ALL: [Self; 3] = [Self::Blk, Self::Rng, Self::Vsock];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Blk => "virtio-blk",
            Self::Rng => "virtio-rng",
            Self::Vsock => "virtio-vsock",
        }
    }

    pub(crate) const fn place(self) -> Place {
        // Lossless: a handful.
        let number = self as u32;
        Place {
            address: VIRTIO + number as u64 * VIRTIO_STRIDE,
            size: mmio::WINDOW,
            intid: VIRTIO_INTERRUPTS + number,
        }
    }
}

/// Where the console is.
pub(crate) const CONSOLE: Place = Place {
    address: UART,
    size: pl011::WINDOW,
    intid: UART_INTERRUPT,
};

/// The map for a guest of a certain size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    cpus: u8,
    memory: u64,
}

impl Layout {
    /// The map for `memory` bytes and so many processors.
    ///
    /// # Errors
    /// [`BoardError::Memory`] and [`BoardError::Processors`] for what no guest can have.
    pub(crate) fn new(memory: u64, cpus: u8) -> Result<Self, BoardError> {
        let fits = (LEAST_MEMORY..=MOST_MEMORY).contains(&memory);
        if !fits || !memory.is_multiple_of(MEMORY_GRANULE) {
            return Err(BoardError::Memory { bytes: memory });
        }
        if !(1..=MOST_CPUS).contains(&cpus) {
            return Err(BoardError::Processors { wanted: cpus });
        }
        Ok(Self { cpus, memory })
    }

    /// Number of processors.
    pub(crate) const fn cpus(&self) -> u8 {
        self.cpus
    }

    /// Number of the controller's interrupts.
    #[expect(clippy::unused_self, reason = "all of the map is asked in one way")]
    pub(crate) const fn interrupts(&self) -> u32 {
        INTERRUPTS
    }

    /// Bits of address that this map needs.
    #[expect(clippy::unused_self, reason = "all of the map is asked in one way")]
    pub(crate) const fn address_bits(&self) -> u32 {
        ADDRESS_BITS
    }

    /// The guest's memory.
    pub(crate) const fn memory(&self) -> Range<u64> {
        // `new` has checked the sum.
        RAM..RAM.saturating_add(self.memory)
    }

    /// The interrupt controller's distributor.
    #[expect(clippy::unused_self, reason = "all of the map is asked in one way")]
    pub(crate) const fn gic_distributor(&self) -> Range<u64> {
        GIC_DISTRIBUTOR..GIC_DISTRIBUTOR + GIC_DISTRIBUTOR_SIZE
    }

    /// The interrupt controller's redistributors, one after the other.
    pub(crate) const fn gic_redistributors(&self) -> Range<u64> {
        GIC_REDISTRIBUTORS..GIC_REDISTRIBUTORS + self.cpus as u64 * GIC_REDISTRIBUTOR_SIZE
    }
}

/// The affinity fields of `MPIDR_EL1` of a processor, as KVM numbers them: `Aff1` is its cluster of
/// sixteen, `Aff0` its place there. A GICv3 reaches sixteen with one write.
pub(crate) fn affinity(cpu: u8) -> u32 {
    let cpu = u32::from(cpu);
    (cpu >> 4) << 8 | cpu & 0xf
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What engines map comes in pieces of this size, in bytes.
    const GRANULE: u64 = 16 << 10;

    fn regions(layout: &Layout) -> Vec<Range<u64>> {
        let places = VirtioSlot::ALL.map(VirtioSlot::place).into_iter();
        let windows = places
            .chain([CONSOLE])
            .map(|place| place.address..place.address + place.size);
        let others = [
            layout.gic_distributor(),
            layout.gic_redistributors(),
            layout.memory(),
        ];
        windows.chain(others).collect()
    }

    proptest! {
        #[test]
        fn nothing_overlaps(pieces in 16_u64..=MOST_MEMORY / MEMORY_GRANULE, cpus in 1..=MOST_CPUS) {
            let layout = Layout::new(pieces * MEMORY_GRANULE, cpus).unwrap();
            let mut regions = regions(&layout);
            regions.sort_by_key(|region| region.start);
            for pair in regions.windows(2) {
                prop_assert!(pair[0].end <= pair[1].start, "{pair:x?}");
            }
            prop_assert!(regions.last().unwrap().end <= 1 << layout.address_bits());
            for mapped in [layout.memory(), layout.gic_distributor(), layout.gic_redistributors()] {
                prop_assert!(mapped.start.is_multiple_of(GRANULE));
                prop_assert!(mapped.end.is_multiple_of(GRANULE));
            }
        }
    }

    #[test]
    fn every_interrupt_is_the_controllers_and_is_one_devices() {
        let layout = Layout::new(LEAST_MEMORY, 1).unwrap();
        let mut all: Vec<_> = VirtioSlot::ALL.map(|slot| slot.place().intid).into();
        all.push(CONSOLE.intid);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), VirtioSlot::ALL.len() + 1);
        assert!(
            all.iter()
                .all(|intid| (FIRST_SPI..layout.interrupts()).contains(intid))
        );
    }

    #[test]
    fn what_no_guest_can_have_is_refused() {
        for bytes in [
            0,
            LEAST_MEMORY - MEMORY_GRANULE,
            LEAST_MEMORY + GRANULE,
            MOST_MEMORY + MEMORY_GRANULE,
            u64::MAX,
        ] {
            let error = Layout::new(bytes, 1).unwrap_err();
            assert!(matches!(error, BoardError::Memory { bytes: it } if it == bytes));
        }
        for cpus in [0, MOST_CPUS + 1, u8::MAX] {
            let error = Layout::new(LEAST_MEMORY, cpus).unwrap_err();
            assert!(matches!(error, BoardError::Processors { wanted } if wanted == cpus));
        }
        for (memory, cpus) in [(LEAST_MEMORY, 1), (MOST_MEMORY, MOST_CPUS)] {
            Layout::new(memory, cpus).unwrap();
        }
    }
}
