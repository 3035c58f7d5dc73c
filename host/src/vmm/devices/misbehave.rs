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
    // Reads the first sector.
    let request = [0; 16];
    misbehave(
        &mut Driver::untouched(Blk::new(file).unwrap()),
        &request,
        data,
    );
}

/// The random numbers, likewise.
pub(crate) fn random_numbers(data: &[u8]) {
    misbehave(&mut Driver::untouched(Rng::default()), &[0], data);
}

/// The streams, likewise.
pub(crate) fn streams(data: &[u8]) {
    let guest = GuestCid::try_from(3).unwrap();
    let (device, door) = Vsock::start(guest).unwrap();
    // Nobody keeps the streams, so that they come to all their ends.
    let _listening = door.listen(2, Box::new(|_stream| Ok(()))).unwrap();
    // From the guest's port 1 to the host's port 2: opens a stream.
    let mut request = [0; 44];
    for (at, value) in [(0, 3), (8, 2), (16, 1), (20, 2), (28, 1), (30, 1), (38, 1)] {
        request[at] = value;
    }
    misbehave(&mut Driver::untouched(device), &request, data);
}

/// Lets a driver do what `data` says, with requests that resemble `template`. Panics when the interrupt line is asserted without a reason
/// while the device is reset, or when the device writes to memory after a reset.
pub(crate) fn misbehave<D: VirtioDevice>(driver: &mut Driver<D>, template: &[u8], data: &[u8]) {
    let mut decisions = Decisions(data);
    while !decisions.0.is_empty() {
        step(driver, template, &mut decisions);
        if driver.status() == 0 {
            assert_eq!(driver.get(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
            assert!(!driver.line.asserted());
        }
    }
    // Whatever it was, a good driver is served afterwards.
    driver.start(u64::MAX);
    driver.set_status(0);
    let all = vec![0xa5; WATCHED];
    driver.put(BASE, &all);
    for index in 0..driver.rings.len() {
        driver.notify(index);
    }
    assert!(driver.bytes(BASE, WATCHED) == all, "written after a reset");
    assert!(!driver.line.asserted());
}

fn step<D: VirtioDevice>(driver: &mut Driver<D>, template: &[u8], decisions: &mut Decisions<'_>) {
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
            offer(driver, template, index, decisions);
            driver.notify(index);
        }
    }
}

/// Offers a chain of a few descriptors, good ones mostly: a request as `template` has it, with a
/// few bytes changed, and space for the answer.
fn offer<D: VirtioDevice>(
    driver: &mut Driver<D>,
    template: &[u8],
    index: usize,
    decisions: &mut Decisions<'_>,
) {
    let ring = driver.rings[index];
    let head = decisions.below(u64::from(ring.size)) as u16;
    let count = decisions.below(5) as u16 + 1;
    for i in 0..count {
        let slot = head.wrapping_add(i) % ring.size;
        let next = slot.wrapping_add(1) % ring.size;
        let addr = BUFFERS + u64::from(i) * 0x1000;
        let first = i == 0;
        let usual = decisions.below(8) > 0;
        let mut flags = if i + 1 < count { NEXT } else { 0 };
        flags |= if first == usual { 0 } else { WRITE };
        let len = match decisions.below(4) {
            0 => decisions.value() as u32 % 5000,
            _ if first => template.len() as u32,
            1 => 512,
            _ => [1, 1024, 4096][decisions.below(3) as usize],
        };
        let descriptor = match decisions.below(16) {
            0 => (decisions.value(), decisions.value() as u32, flags, next),
            1 => (
                addr,
                len,
                decisions.below(8) as u16,
                decisions.below(300) as u16,
            ),
            _ => (addr, len, flags, next),
        };
        driver.describe(ring.base + u64::from(slot) * 16, descriptor);
        if first {
            let mut request = template.to_vec();
            for _ in 0..decisions.below(4) {
                let at = decisions.below(template.len() as u64) as usize;
                let [value] = decisions.bytes();
                // Small values mean something more often than others.
                request[at] = if value < 0x80 { value & 0xf } else { value };
            }
            driver.put(addr, &request);
        }
    }
    driver.offer_head(index, head);
}
