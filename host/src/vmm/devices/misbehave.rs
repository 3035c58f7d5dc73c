//! Drivers that do what bytes say, for property tests and for fuzzing: any register at any time,
//! any content of rings and buffers, and now and then what a good driver does, so that the bytes
//! get far.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests may fail"
)]

use super::MmioDevice;
use super::testing::{BASE, BUFFERS, Driver, MEMORY, NEXT, WRITE};
use super::virtio::blk::Blk;
use super::virtio::mmio::WINDOW;
use super::virtio::rng::Rng;
use super::virtio::{VirtioDevice, mmio};
use crate::vmm::vsock::{GuestCid, Vsock};
use std::fs::File;
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_INTERRUPT_STATUS;

/// What is looked at after the reset: all rings, and the buffers that are used most.
const WATCHED: usize = 2 << 20;

/// Bytes as decisions. When they are used up every decision is zero.
struct Decisions<'d>(&'d [u8]);

impl Decisions<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let len = self.0.len().min(N);
        let (now, later) = self.0.split_at(len);
        taken[..len].copy_from_slice(now);
        self.0 = later;
        taken
    }

    /// A number below `end`, from as few bytes as can say it.
    fn below(&mut self, end: u64) -> u64 {
        let number = match end {
            ..=0x100 => u64::from(u8::from_le_bytes(self.bytes())),
            0x101..=0x1_0000 => u64::from(u16::from_le_bytes(self.bytes())),
            _ => u64::from(u32::from_le_bytes(self.bytes())),
        };
        number % end
    }

    /// A value of any size, or an address that means something.
    fn value(&mut self) -> u64 {
        match self.below(4) {
            0 => u64::from_le_bytes(self.bytes()),
            1 => u64::from(u32::from_le_bytes(self.bytes())),
            2 => self.below(256),
            _ => BASE + self.below(MEMORY),
        }
    }
}

/// A disk whose driver does what `data` says. `file` is the disk.
pub(crate) fn disk(file: File, data: &[u8]) {
    misbehave(&mut Driver::untouched(Blk::new(file).unwrap()), data);
}

/// The random numbers, likewise.
pub(crate) fn random_numbers(data: &[u8]) {
    misbehave(&mut Driver::untouched(Rng::default()), data);
}

/// The streams, likewise.
pub(crate) fn streams(data: &[u8]) {
    let guest = GuestCid::try_from(3).unwrap();
    let (device, _door) = Vsock::start(guest).unwrap();
    misbehave(&mut Driver::untouched(device), data);
}

/// Lets a driver do what `data` says. Panics when the interrupt line is asserted without a reason
/// while the device is reset, or when the device writes to memory after a reset.
pub(crate) fn misbehave<D: VirtioDevice>(driver: &mut Driver<D>, data: &[u8]) {
    let mut decisions = Decisions(data);
    while !decisions.0.is_empty() {
        step(driver, &mut decisions);
        if driver.status() == 0 {
            assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
            assert!(!driver.line.asserted());
        }
    }
    driver.set_status(0);
    let all = vec![0xa5; WATCHED];
    driver.put(BASE, &all);
    for index in 0..driver.rings.len() {
        driver.notify(index);
    }
    assert!(driver.bytes(BASE, WATCHED) == all, "written after a reset");
    assert!(!driver.line.asserted());
}

fn step<D: VirtioDevice>(driver: &mut Driver<D>, decisions: &mut Decisions<'_>) {
    let rings = driver.rings.len() as u64;
    match decisions.below(16) {
        0 => {
            let size = 1 << decisions.below(4);
            let offset = decisions.below(WINDOW - size + 1);
            driver.transport.read(offset, &mut vec![0; size as usize]);
        }
        1 => {
            let size = 1 << decisions.below(4);
            let offset = decisions.below(WINDOW - size + 1);
            let value = decisions.value().to_le_bytes();
            driver.transport.write(offset, &value[..size as usize]);
        }
        2..=4 => {
            let register = decisions.below(WINDOW / 4) * 4;
            let value = decisions.value() as u32;
            driver.transport.write(register, &value.to_le_bytes());
        }
        5 => {
            let value = (decisions.value() as u32).to_le_bytes();
            driver.transport.write(mmio::QUEUE_NOTIFY, &value);
        }
        6 | 7 => {
            let at = BASE + decisions.below(MEMORY - 8);
            driver.put(at, &decisions.value().to_le_bytes());
        }
        8 => {
            // Into a ring: the indices, or an entry.
            let ring = driver.rings[decisions.below(rings) as usize];
            let base = if decisions.below(2) == 0 {
                ring.avail()
            } else {
                ring.base
            };
            let at = base + decisions.below(64);
            driver.put(at, &decisions.bytes::<2>());
        }
        9 => driver.set_status(0),
        10 => driver.set_status(match driver.status() {
            0 => 1,
            1 => 3,
            3 => 11,
            other => other | 15,
        }),
        11 | 12 => driver.start(u64::MAX),
        _ => {
            let index = decisions.below(rings) as usize;
            offer(driver, index, decisions);
            driver.notify(index);
        }
    }
}

/// Offers a chain of a few descriptors, good ones mostly, whose readable buffers begin with
/// decisions.
fn offer<D: VirtioDevice>(driver: &mut Driver<D>, index: usize, decisions: &mut Decisions<'_>) {
    let ring = driver.rings[index];
    let head = decisions.below(u64::from(ring.size)) as u16;
    let count = decisions.below(5) as u16 + 1;
    for i in 0..count {
        let slot = head.wrapping_add(i) % ring.size;
        let next = slot.wrapping_add(1) % ring.size;
        let addr = BUFFERS + u64::from(i) * 0x1000;
        let mut flags = if i + 1 < count { NEXT } else { 0 };
        flags |= if decisions.below(3) == 0 { 0 } else { WRITE };
        let len = [16, 1, 512, 44, 4096][decisions.below(5) as usize];
        let good = (addr, len, flags, next);
        let descriptor = match decisions.below(8) {
            0 => (decisions.value(), decisions.value() as u32, flags, next),
            1 => (
                addr,
                len,
                decisions.below(8) as u16,
                decisions.below(300) as u16,
            ),
            _ => good,
        };
        driver.describe(ring.base + u64::from(slot) * 16, descriptor);
        driver.put(addr, &decisions.bytes::<48>());
    }
    driver.offer_head(index, head);
}
