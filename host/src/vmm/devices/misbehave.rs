//! Drivers that do what bytes say, for property tests and for fuzzing: any register at any time,
//! any content of rings and buffers, and now and then what a good driver does, so that the bytes
//! get far.
//!
//! Whatever the bytes say, the interrupt line never tells of what is not there, a device that was
//! reset leaves memory alone, and a good driver is served in the end.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "tests may fail"
)]

use super::testing::{BASE, BUFFERS, Driver, INDIRECT, MEMORY, NEXT, WRITE};
use super::virtio::blk::Blk;
use super::virtio::mmio::{self, WINDOW};
use super::virtio::rng::Rng;
use super::virtio::{Activation, COMMON_FEATURES, Unserved, VirtioDevice};
use super::{Memory, MmioDevice};
use crate::vmm::vsock::{GuestCid, Vsock};
use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;
use virtio_bindings::virtio_mmio as registers;
use virtio_queue::{Queue, QueueT};

/// What is looked at after the reset: all rings, and the buffers that are used most.
const WATCHED: [(u64, usize); 2] = [(BASE, 0x3_0000), (BUFFERS, 0x1_0000)];

/// Registers that describe a ring.
const RING_REGISTERS: [u32; 9] = [
    registers::VIRTIO_MMIO_QUEUE_SEL,
    registers::VIRTIO_MMIO_QUEUE_NUM,
    registers::VIRTIO_MMIO_QUEUE_READY,
    registers::VIRTIO_MMIO_QUEUE_DESC_LOW,
    registers::VIRTIO_MMIO_QUEUE_DESC_HIGH,
    registers::VIRTIO_MMIO_QUEUE_AVAIL_LOW,
    registers::VIRTIO_MMIO_QUEUE_AVAIL_HIGH,
    registers::VIRTIO_MMIO_QUEUE_USED_LOW,
    registers::VIRTIO_MMIO_QUEUE_USED_HIGH,
];

/// Where a table of descriptors lies that is not the ring's.
const TABLE: u64 = BUFFERS + 0x8000;

/// Bytes as decisions. When they are used up every decision is zero.
pub(in crate::vmm) struct Decisions<'d>(pub(in crate::vmm) &'d [u8]);

impl Decisions<'_> {
    pub(in crate::vmm) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let len = self.0.len().min(N);
        let (now, later) = self.0.split_at(len);
        taken[..len].copy_from_slice(now);
        self.0 = later;
        taken
    }

    /// A number below `end`, from as few bytes as can say it.
    pub(in crate::vmm) fn below(&mut self, end: u64) -> u64 {
        let number = match end {
            ..=0x100 => u64::from(u8::from_le_bytes(self.bytes())),
            0x101..=0x1_0000 => u64::from(u16::from_le_bytes(self.bytes())),
            _ => u64::from(u32::from_le_bytes(self.bytes())),
        };
        number % end
    }

    /// A value of any size, or an address that means something.
    pub(in crate::vmm) fn value(&mut self) -> u64 {
        match self.below(4) {
            0 => u64::from_le_bytes(self.bytes()),
            1 => u64::from(u32::from_le_bytes(self.bytes())),
            2 => self.below(256),
            _ => BASE + self.below(MEMORY),
        }
    }
}

/// A device that insists on what its transport promises.
struct Strict {
    active: Option<Activation>,
}

impl VirtioDevice for Strict {
    fn device_type(&self) -> u32 {
        42
    }

    fn features(&self) -> u64 {
        COMMON_FEATURES | 0x8000_0001
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256, 64]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        assert!(data.iter().all(|&byte| byte == 0));
        super::virtio::read_at(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), Unserved> {
        assert!(self.active.is_none());
        assert_eq!(activation.queues.len(), 2);
        for (queue, &most) in activation.queues.iter().zip(self.queue_sizes()) {
            assert!(queue.size() <= most);
            if queue.ready() {
                check_ring(queue, &activation.memory);
            }
        }
        let is_complete = activation.queues.iter().all(QueueT::ready);
        self.active = Some(activation);
        if is_complete {
            Ok(())
        } else {
            Err(Unserved("this is a test"))
        }
    }

    fn notify(&mut self, queue: u32) {
        assert!(queue < 2);
        let active = self.active.as_ref().unwrap();
        // Something that shows in memory and in the interrupt.
        match queue {
            0 => active.interrupt.used_buffers(),
            _ => active.interrupt.needs_reset("this is a test"),
        }
    }

    fn reset(&mut self) {
        self.active = None;
    }
}

/// All of a ring is memory.
fn check_ring(queue: &Queue, memory: &Memory) {
    assert!(queue.is_valid(memory));
    let size = u64::from(queue.size());
    for (address, len) in [
        (queue.desc_table(), size * 16),
        (queue.avail_ring(), size * 2 + 6),
        (queue.used_ring(), size * 8 + 6),
    ] {
        let end = address.checked_add(len).unwrap();
        assert!(address >= BASE && end <= BASE + MEMORY, "{address:#x}");
    }
}

/// A device that does nothing but watch its transport, whose driver does what `data` says.
pub(crate) fn transport(data: &[u8]) {
    let mut driver = Driver::untouched(Strict { active: None });
    misbehave(&mut driver, &[0], Decisions(data));
    driver.notify(0);
    assert_eq!(driver.interrupted(), 1);
}

/// Sectors of the disk.
const SECTORS: u8 = 200;

/// A disk of [`SECTORS`], each full of its number, and a rest. Nobody ever writes to it.
fn disk_file() -> File {
    static FILE: OnceLock<File> = OnceLock::new();
    let file = FILE.get_or_init(|| {
        let mut file = tempfile::tempfile().unwrap();
        for sector in 0..SECTORS {
            file.write_all(&[sector; 512]).unwrap();
        }
        file.write_all(&[0xff; 100]).unwrap();
        file
    });
    file.try_clone().unwrap()
}

/// A disk whose driver does what `data` says.
pub(crate) fn disk(data: &[u8]) {
    // Reads the first sector.
    let mut request = [0; 16];
    let mut driver = Driver::untouched(Blk::new(disk_file()).unwrap());
    misbehave(&mut driver, &request, Decisions(data));
    request[8] = SECTORS - 1;
    driver.put(BUFFERS, &request);
    let [content, status] = [BUFFERS + 0x1000, BUFFERS + 0x2000];
    let buffers = [
        (BUFFERS, 16, false),
        (content, 512, true),
        (status, 1, true),
    ];
    let head = driver.offer(0, &buffers);
    driver.notify(0);
    assert_eq!(driver.take(0), Some((head.into(), 513)));
    assert!(driver.bytes(content, 512) == [SECTORS - 1; 512]);
    assert_eq!(driver.bytes(status, 1), [0]);
}

/// The random numbers, likewise.
pub(crate) fn random_numbers(data: &[u8]) {
    let mut driver = Driver::untouched(Rng::default());
    misbehave(&mut driver, &[0], Decisions(data));
    let head = driver.offer(0, &[(BUFFERS, 300, true)]);
    driver.notify(0);
    assert_eq!(driver.take(0), Some((head.into(), 300)));
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
    let mut driver = Driver::untouched(device);
    misbehave(&mut driver, &request, Decisions(data));
    driver.put(BUFFERS, &request);
    driver.offer(1, &[(BUFFERS, 44, false)]);
    let head = driver.offer(0, &[(BUFFERS + 0x1000, 4096, true)]);
    driver.notify(1);
    let answer = loop {
        if let Some(answer) = driver.take(0) {
            break answer;
        }
        driver.line.wait();
        driver.interrupted();
    };
    assert_eq!(answer, (head.into(), 44));
    // RESPONSE.
    assert_eq!(driver.bytes(BUFFERS + 0x1000 + 30, 2), [2, 0]);
}

/// Lets a driver do what the bytes say, with requests that resemble `template`, and leaves it
/// started anew, with nothing in its rings. Panics when the interrupt line is asserted without a
/// reason while the device is reset, or when the device writes to memory after a reset.
pub(crate) fn misbehave<D: VirtioDevice>(
    driver: &mut Driver<D>,
    template: &[u8],
    mut decisions: Decisions<'_>,
) {
    while !decisions.0.is_empty() {
        step(driver, template, &mut decisions);
        if driver.status() == 0 {
            assert_eq!(driver.get(registers::VIRTIO_MMIO_INTERRUPT_STATUS), 0);
            assert!(!driver.line.asserted());
        }
    }
    driver.set_status(0);
    for (at, len) in WATCHED {
        driver.put(at, &vec![0xa5; len]);
    }
    for index in 0..driver.rings.len() {
        driver.notify(index);
    }
    for (at, len) in WATCHED {
        let same = driver.bytes(at, len).iter().all(|&byte| byte == 0xa5);
        assert!(same, "written after a reset");
    }
    assert!(!driver.line.asserted());
    // Whatever it was, a good driver is served afterwards.
    driver.start(u64::MAX);
}

fn step<D: VirtioDevice>(driver: &mut Driver<D>, template: &[u8], decisions: &mut Decisions<'_>) {
    let rings = driver.rings.len() as u64;
    match decisions.below(16) {
        which @ 0..6 => access(driver, which, decisions),
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
        10 => match decisions.below(4) {
            0 => driver.prepare(u64::MAX),
            1 => driver.prepare(decisions.value()),
            _ => driver.set_status(match driver.status() {
                0 => 1,
                1 => 3,
                3 => 11,
                other => other | 15,
            }),
        },
        11 => driver.start(u64::MAX),
        12 => driver.start(decisions.value()),
        _ => {
            let index = decisions.below(rings) as usize;
            offer(driver, template, index, decisions);
            driver.notify(index);
        }
    }
}

/// Reads or writes a register.
fn access<D: VirtioDevice>(driver: &Driver<D>, which: u64, decisions: &mut Decisions<'_>) {
    match which {
        0 | 1 => {
            let size = 1 << decisions.below(4);
            let offset = decisions.below(WINDOW - size + 1);
            if which == 0 {
                driver.transport.read(offset, &mut vec![0; size as usize]);
            } else {
                let value = decisions.value().to_le_bytes();
                driver.transport.write(offset, &value[..size as usize]);
            }
        }
        2 | 3 => {
            let register = decisions.below(WINDOW / 4) * 4;
            driver.set(register as u32, decisions.value() as u32);
        }
        4 => {
            let register = RING_REGISTERS[decisions.below(9) as usize];
            driver.set(register, decisions.value() as u32);
        }
        _ => {
            let value = (decisions.value() as u32).to_le_bytes();
            driver.transport.write(mmio::QUEUE_NOTIFY, &value);
        }
    }
}

/// Offers a chain of a few descriptors, good ones mostly: a request as `template` has it, with a
/// few bytes changed, and space for the answer. The descriptors lie in the ring's table, or in one
/// of their own that a descriptor of the ring names.
fn offer<D: VirtioDevice>(
    driver: &mut Driver<D>,
    template: &[u8],
    index: usize,
    decisions: &mut Decisions<'_>,
) {
    let ring = driver.rings[index];
    let head = decisions.below(u64::from(ring.size)) as u16;
    let count = decisions.below(5) as u16 + 1;
    let (table, size, first) = match decisions.below(8) {
        0 => {
            let len = u32::from(count) * 16;
            let descriptor = (TABLE, len, INDIRECT, 0);
            driver.describe(ring.base + u64::from(head) * 16, descriptor);
            (TABLE, count, 0)
        }
        _ => (ring.base, ring.size, head),
    };
    for i in 0..count {
        let slot = first.wrapping_add(i) % size;
        let next = slot.wrapping_add(1) % size;
        let descriptor = descriptor(template, decisions, i, (i + 1 < count).then_some(next));
        driver.describe(table + u64::from(slot) * 16, descriptor);
    }
    let mut request = template.to_vec();
    for _ in 0..decisions.below(4) {
        let at = decisions.below(template.len() as u64) as usize;
        let [value] = decisions.bytes();
        // Small values mean something more often than others.
        request[at] = if value < 0x80 { value & 0xf } else { value };
    }
    driver.put(BUFFERS, &request);
    driver.offer_head(index, head);
}

/// The descriptor at place `i` of a chain.
fn descriptor(
    template: &[u8],
    decisions: &mut Decisions<'_>,
    i: u16,
    next: Option<u16>,
) -> (u64, u32, u16, u16) {
    let addr = BUFFERS + u64::from(i) * 0x1000;
    let first = i == 0;
    let usual = decisions.below(8) > 0;
    let mut flags = next.map_or(0, |_| NEXT);
    flags |= if first == usual { 0 } else { WRITE };
    let len = match decisions.below(4) {
        0 => decisions.value() as u32 % 5000,
        _ if first => template.len() as u32,
        1 => 512,
        _ => [1, 1024, 4096][decisions.below(3) as usize],
    };
    let next = next.unwrap_or(0);
    match decisions.below(16) {
        0 => (decisions.value(), decisions.value() as u32, flags, next),
        1 => (
            addr,
            len,
            decisions.below(8) as u16,
            decisions.below(300) as u16,
        ),
        _ => (addr, len, flags, next),
    }
}
