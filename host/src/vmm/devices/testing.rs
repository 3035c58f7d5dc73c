//! What tests of several devices share: an interrupt line, and a driver that is small enough to be
//! read and free to misbehave. It uses nothing but registers and guest memory.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "tests may fail"
)]

use super::virtio::VirtioDevice;
use super::virtio::mmio::{MmioTransport, QUEUE_NOTIFY};
use super::{InterruptLine, Memory, MmioDevice};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use virtio_bindings::virtio_mmio as registers;
use vm_memory::{Bytes, GuestAddress};

const LONG: Duration = Duration::from_secs(20);

/// An interrupt line that remembers its level, and that insists on hearing of changes only.
#[derive(Debug, Default)]
pub(crate) struct Line {
    asserted: Mutex<bool>,
    changed: Condvar,
}

impl Line {
    pub(crate) fn asserted(&self) -> bool {
        *self.asserted.lock().unwrap()
    }

    /// Waits until the line is asserted.
    pub(crate) fn wait(&self) {
        let asserted = self.asserted.lock().unwrap();
        let (_asserted, result) = self
            .changed
            .wait_timeout_while(asserted, LONG, |asserted| !*asserted)
            .unwrap();
        assert!(!result.timed_out(), "no interrupt");
    }
}

impl InterruptLine for Line {
    fn set(&self, asserted: bool) {
        let mut level = self.asserted.lock().unwrap();
        assert_ne!(*level, asserted, "not a change");
        *level = asserted;
        self.changed.notify_all();
    }
}

/// Where guest memory begins and how long it is.
pub(crate) const BASE: u64 = 0x4000_0000;
pub(crate) const MEMORY: u64 = 16 << 20;
/// Where no ring lies.
pub(crate) const BUFFERS: u64 = BASE + 0x10_0000;

/// The bits of a descriptor's flags.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// A feature bit that every driver must take.
pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const EVENT_IDX: u64 = 1 << 29;

/// A buffer of a chain: address, length, and whether the device may write it.
pub(crate) type Buffer = (u64, u32, bool);

/// The driver's side of one ring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DriverRing {
    pub(crate) base: u64,
    pub(crate) size: u16,
    pub(crate) offered: u16,
    pub(crate) taken: u16,
    free: u16,
}

impl DriverRing {
    pub(crate) fn avail(&self) -> u64 {
        self.base + 0x8000
    }

    pub(crate) fn used(&self) -> u64 {
        self.base + 0xa000
    }
}

/// A device behind its transport, and its driver.
pub(crate) struct Driver<D> {
    pub(crate) transport: MmioTransport<D>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) line: Arc<Line>,
    pub(crate) rings: Vec<DriverRing>,
}

impl<D: VirtioDevice> Driver<D> {
    /// A device that no driver has touched.
    pub(crate) fn untouched(device: D) -> Self {
        let ranges = [(GuestAddress(BASE), usize::try_from(MEMORY).unwrap())];
        let memory = Arc::new(Memory::from_ranges(&ranges).unwrap());
        let line = Arc::new(Line::default());
        let ring = |(index, &size): (u64, &u16)| DriverRing {
            base: BASE + index * 0x1_0000,
            size: size.min(256),
            offered: 0,
            taken: 0,
            free: 0,
        };
        let rings = (0..).zip(device.queue_sizes()).map(ring).collect();
        let transport = MmioTransport::new(device, Arc::clone(&memory), line.clone());
        Self {
            transport,
            memory,
            line,
            rings,
        }
    }

    /// A device that serves, with all that it offers.
    pub(crate) fn started(device: D) -> Self {
        let mut driver = Self::untouched(device);
        driver.start(u64::MAX);
        driver
    }

    pub(crate) fn get(&self, register: u32) -> u32 {
        let mut data = [0xff; 4];
        self.transport.read(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn set(&self, register: u32, value: u32) {
        self.transport.write(register.into(), &value.to_le_bytes());
    }

    pub(crate) fn status(&self) -> u32 {
        self.get(registers::VIRTIO_MMIO_STATUS)
    }

    pub(crate) fn set_status(&self, status: u32) {
        self.set(registers::VIRTIO_MMIO_STATUS, status);
    }

    pub(crate) fn offered_features(&self) -> u64 {
        let mut features = 0;
        for select in [1, 0] {
            self.set(registers::VIRTIO_MMIO_DEVICE_FEATURES_SEL, select);
            features = features << 32 | u64::from(self.get(registers::VIRTIO_MMIO_DEVICE_FEATURES));
        }
        features
    }

    pub(crate) fn take_features(&self, features: u64) {
        for select in [1, 0] {
            let bytes = (features >> (32 * select)).to_le_bytes();
            self.set(registers::VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            self.set(
                registers::VIRTIO_MMIO_DRIVER_FEATURES,
                u32::from_le_bytes(*bytes.first_chunk().unwrap()),
            );
        }
    }

    /// Sets up a ring's registers.
    pub(crate) fn place(&self, index: usize) {
        let ring = self.rings[index];
        self.set(registers::VIRTIO_MMIO_QUEUE_SEL, index as u32);
        self.set(registers::VIRTIO_MMIO_QUEUE_NUM, ring.size.into());
        for (register, address) in [
            (registers::VIRTIO_MMIO_QUEUE_DESC_LOW, ring.base),
            (registers::VIRTIO_MMIO_QUEUE_AVAIL_LOW, ring.avail()),
            (registers::VIRTIO_MMIO_QUEUE_USED_LOW, ring.used()),
        ] {
            self.set(register, address as u32);
            self.set(register + 4, (address >> 32) as u32);
        }
        self.set(registers::VIRTIO_MMIO_QUEUE_READY, 1);
    }

    /// From reset to the point where only DRIVER_OK is missing. Takes those of `features` that are
    /// offered.
    pub(crate) fn prepare(&mut self, features: u64) {
        self.set_status(0);
        self.set_status(1);
        self.set_status(3);
        self.take_features(self.offered_features() & features | VERSION_1);
        self.set_status(11);
        for index in 0..self.rings.len() {
            let ring = &mut self.rings[index];
            (ring.offered, ring.taken, ring.free) = (0, 0, 0);
            let zeroes = vec![0; 0x1_0000];
            self.memory
                .write_slice(&zeroes, GuestAddress(ring.base))
                .unwrap();
            self.place(index);
        }
    }

    /// As Linux does it.
    pub(crate) fn start(&mut self, features: u64) {
        self.prepare(features);
        self.set_status(15);
        assert_eq!(self.status(), 15);
    }

    pub(crate) fn describe(&self, at: u64, (addr, len, flags, next): (u64, u32, u16, u16)) {
        self.memory.write_obj(addr, GuestAddress(at)).unwrap();
        self.memory.write_obj(len, GuestAddress(at + 8)).unwrap();
        self.memory.write_obj(flags, GuestAddress(at + 12)).unwrap();
        self.memory.write_obj(next, GuestAddress(at + 14)).unwrap();
    }

    /// Offers a chain of buffers.
    pub(crate) fn offer(&mut self, index: usize, buffers: &[Buffer]) -> u16 {
        let ring = self.rings[index];
        let mut slots = (0..=buffers.len()).map(|i| ring.free.wrapping_add(i as u16) % ring.size);
        let head = slots.next().unwrap();
        let mut slot = head;
        for (i, (&(addr, len, write), following)) in buffers.iter().zip(slots).enumerate() {
            let mut flags = if write { WRITE } else { 0 };
            if i + 1 < buffers.len() {
                flags |= NEXT;
            }
            self.describe(
                ring.base + u64::from(slot) * 16,
                (addr, len, flags, following),
            );
            slot = following;
        }
        self.rings[index].free = slot;
        self.offer_head(index, head);
        head
    }

    pub(crate) fn offer_head(&mut self, index: usize, head: u16) {
        let ring = &mut self.rings[index];
        let slot = ring.avail() + 4 + u64::from(ring.offered % ring.size) * 2;
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        ring.offered = ring.offered.wrapping_add(1);
        let at = GuestAddress(ring.avail() + 2);
        self.memory.write_obj(ring.offered, at).unwrap();
    }

    pub(crate) fn notify(&self, index: usize) {
        self.transport
            .write(QUEUE_NOTIFY, &(index as u32).to_le_bytes());
    }

    /// The next chain that the device is done with, and how much it says it wrote.
    pub(crate) fn take(&mut self, index: usize) -> Option<(u32, u32)> {
        let ring = &mut self.rings[index];
        let used: u16 = self.memory.read_obj(GuestAddress(ring.used() + 2)).unwrap();
        if used == ring.taken {
            return None;
        }
        let at = ring.used() + 4 + u64::from(ring.taken % ring.size) * 8;
        ring.taken = ring.taken.wrapping_add(1);
        // The next one is to be told of.
        let event = ring.avail() + 4 + u64::from(ring.size) * 2;
        self.memory
            .write_obj(ring.taken, GuestAddress(event))
            .unwrap();
        let head = self.memory.read_obj(GuestAddress(at)).unwrap();
        Some((head, self.memory.read_obj(GuestAddress(at + 4)).unwrap()))
    }

    /// What an interrupt handler does; the reasons.
    pub(crate) fn interrupted(&self) -> u32 {
        let reasons = self.get(registers::VIRTIO_MMIO_INTERRUPT_STATUS);
        self.set(registers::VIRTIO_MMIO_INTERRUPT_ACK, reasons);
        reasons
    }

    pub(crate) fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(at))
            .unwrap();
        bytes
    }

    pub(crate) fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }
}
