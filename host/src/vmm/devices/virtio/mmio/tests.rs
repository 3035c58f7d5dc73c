//! The transport, register by register. Each test changes one thing of what a good driver does.

#![expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests may fail"
)]

use super::*;
use crate::vmm::devices::misbehave;
use crate::vmm::devices::testing::{BASE, Driver, EVENT_IDX, MEMORY, VERSION_1};
use crate::vmm::devices::virtio::{COMMON_FEATURES, Unserved};
use proptest::prelude::*;
use registers::*;
use std::sync::mpsc::{Receiver, Sender, channel};

/// What a device was told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    /// Sizes of the rings that are ready, zero for the others.
    Activate(Vec<u16>, bool),
    Notify(u32),
    Reset,
}

/// A device that remembers what it was told.
struct Probe {
    told: Sender<Told>,
    refuse: bool,
}

impl VirtioDevice for Probe {
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
        super::super::read_at(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), Unserved> {
        let sizes = activation.queues.iter();
        let sizes = sizes.map(|queue| if queue.ready() { queue.size() } else { 0 });
        let event_idx = activation.queues[0].event_idx_enabled();
        self.told
            .send(Told::Activate(sizes.collect(), event_idx))
            .unwrap();
        if self.refuse {
            Err(Unserved("this is a test"))
        } else {
            Ok(())
        }
    }

    fn notify(&mut self, queue: u32) {
        self.told.send(Told::Notify(queue)).unwrap();
    }

    fn reset(&mut self) {
        self.told.send(Told::Reset).unwrap();
    }
}

fn probe() -> (Driver<Probe>, Receiver<Told>) {
    let (told, hear) = channel();
    let refuse = false;
    (Driver::untouched(Probe { told, refuse }), hear)
}

/// A device of which only DRIVER_OK is missing.
fn prepared() -> (Driver<Probe>, Receiver<Told>) {
    let (mut driver, told) = probe();
    driver.prepare(u64::MAX);
    (driver, told)
}

fn heard(told: &Receiver<Told>) -> Vec<Told> {
    told.try_iter().collect()
}

#[test]
fn the_device_is_recognised() {
    let (driver, _) = probe();
    assert_eq!(driver.get(VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
    assert_eq!(driver.get(VIRTIO_MMIO_VERSION), 2);
    assert_eq!(driver.get(VIRTIO_MMIO_DEVICE_ID), 42);
    assert_ne!(driver.get(VIRTIO_MMIO_VENDOR_ID), 0);
    assert_eq!(driver.get(VIRTIO_MMIO_CONFIG_GENERATION), 0);
    assert_eq!(driver.status(), 0);
    for register in (VIRTIO_MMIO_SHM_LEN_LOW..=VIRTIO_MMIO_SHM_BASE_HIGH).step_by(4) {
        assert_eq!(driver.get(register), u32::MAX);
    }
}

#[test]
fn a_driver_gets_what_it_set_up() {
    let (driver, told) = prepared();
    driver.set_status(15);
    driver.notify(1);
    driver.notify(0);
    driver.notify(2);
    driver.set(VIRTIO_MMIO_QUEUE_NOTIFY, u32::MAX);
    driver.set(VIRTIO_MMIO_QUEUE_NOTIFY, 1 << 16);
    driver.set_status(0);
    driver.notify(0);
    let expected = [
        Told::Activate(vec![256, 64], true),
        Told::Notify(1),
        Told::Notify(0),
        Told::Reset,
    ];
    assert_eq!(heard(&told), expected);
}

#[test]
fn status_only_moves_forward() {
    let steps = [0, 1, 3, 11, 15];
    for (done, &from) in steps.iter().enumerate() {
        for to in 1..=255_u32 {
            let (driver, _told) = probe();
            for &step in steps.iter().take(done + 1).skip(1) {
                if step == 11 {
                    driver.take_features(VERSION_1);
                }
                driver.set_status(step);
            }
            assert_eq!(driver.status(), from);
            if from == 3 {
                driver.take_features(VERSION_1);
            }
            driver.set_status(to);
            // A driver writes back NEEDS_RESET where it read it.
            let to = to & !0x40;
            let next = steps.get(done + 1) == Some(&to);
            let expected = if next || to == from | FAILED {
                to
            } else {
                from
            };
            assert_eq!(driver.status(), expected, "{from:#x} {to:#x}");
        }
    }
}

#[test]
fn failure_lasts_until_reset() {
    let (mut driver, told) = prepared();
    driver.set_status(11 | 128);
    for status in [11, 15, 15 | 128, 1, 3] {
        driver.set_status(status);
        assert_eq!(driver.status(), 11 | 128);
    }
    assert_eq!(heard(&told), []);
    driver.start(u64::MAX);
    driver.set_status(15 | 128);
    driver.notify(0);
    driver.set_status(0);
    let expected = [Told::Activate(vec![256, 64], true), Told::Reset];
    assert_eq!(heard(&told), expected);
}

#[test]
fn features_are_negotiated() {
    let (driver, _) = probe();
    let offered = driver.offered_features();
    assert_eq!(offered, COMMON_FEATURES | 0x8000_0001);
    driver.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    assert_eq!(driver.get(VIRTIO_MMIO_DEVICE_FEATURES), 0);
    for (features, accepted) in [
        (offered, true),
        (VERSION_1, true),
        (0, false),
        (offered & !VERSION_1, false),
        (VERSION_1 | 2, false),
        (VERSION_1 | 1 << 33, false),
        (u64::MAX, false),
    ] {
        driver.set_status(0);
        driver.set_status(1);
        driver.set_status(3);
        driver.take_features(features);
        driver.set_status(11);
        assert_eq!(driver.status() == 11, accepted, "{features:#x}");
    }
}

#[test]
fn features_are_taken_in_their_time_only() {
    let (driver, told) = probe();
    driver.take_features(VERSION_1 | EVENT_IDX);
    driver.set_status(1);
    driver.take_features(VERSION_1 | EVENT_IDX);
    driver.set_status(3);
    driver.set_status(11);
    assert_eq!(driver.status(), 3);
    driver.take_features(VERSION_1);
    // No third half.
    driver.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 2);
    driver.set(VIRTIO_MMIO_DRIVER_FEATURES, u32::MAX);
    driver.set_status(11);
    driver.take_features(VERSION_1 | EVENT_IDX);
    driver.set_status(15);
    assert_eq!(heard(&told), [Told::Activate(vec![0, 0], false)]);
}

#[test]
fn the_driver_asks_for_rings() {
    let (driver, _) = probe();
    for (queue, max) in [(0, 256), (1, 64), (2, 0), (1 << 16, 0), (u32::MAX, 0)] {
        driver.set(VIRTIO_MMIO_QUEUE_SEL, queue);
        assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_NUM_MAX), max);
        assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_READY), 0);
    }
}

/// Sets up ring 1 with one register changed, and tells whether the device was activated.
fn check_ring(what: &str, register: u32, value: u32, good: bool) {
    let (driver, told) = prepared();
    driver.set(VIRTIO_MMIO_QUEUE_SEL, 1);
    driver.set(register, value);
    driver.set_status(15);
    assert_eq!(heard(&told).is_empty(), !good, "{what}");
    let status = if good { 15 } else { 0x4f };
    assert_eq!(driver.status(), status, "{what}");
    assert_eq!(driver.line.asserted(), !good, "{what}");
    if !good {
        assert_eq!(driver.interrupted(), 2, "{what}");
        driver.notify(1);
        assert_eq!(heard(&told), [], "{what}");
    }
}

#[test]
fn rings_must_make_sense() {
    let ring = BASE as u32 + 0x1_0000;
    let end = (BASE + MEMORY) as u32;
    check_ring("unchanged", VIRTIO_MMIO_QUEUE_NUM, 64, true);
    check_ring("smaller", VIRTIO_MMIO_QUEUE_NUM, 1, true);
    check_ring("not ready", VIRTIO_MMIO_QUEUE_READY, 0, true);
    for size in [0, 3, 63, 128, 1 << 15, 1 << 16, 1 << 16 | 64, u32::MAX] {
        check_ring("size", VIRTIO_MMIO_QUEUE_NUM, size, false);
    }
    for (low, part, align) in [
        (VIRTIO_MMIO_QUEUE_DESC_LOW, 1024, 16),
        (VIRTIO_MMIO_QUEUE_AVAIL_LOW, 6 + 128, 2),
        (VIRTIO_MMIO_QUEUE_USED_LOW, 6 + 512, 4),
    ] {
        let last = (end - part) & !(align - 1);
        check_ring("at the very end", low, last, true);
        check_ring("across the end", low, last + align, false);
        check_ring("behind the end", low, end, false);
        check_ring("below", low, 0, false);
        check_ring("crooked", low, ring + align / 2, false);
        check_ring("far above", low + 4, 1, false);
        check_ring("as far as can be", low + 4, u32::MAX, false);
    }
}

#[test]
fn ring_registers_are_taken_in_their_time_only() {
    // Before FEATURES_OK.
    let (driver, told) = probe();
    for status in [1, 3, 11] {
        driver.place(1);
        assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_READY), 0);
        if status == 11 {
            driver.take_features(VERSION_1);
        }
        driver.set_status(status);
    }
    driver.place(0);
    assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_READY), 1);
    driver.set_status(15);
    assert_eq!(heard(&told), [Told::Activate(vec![256, 0], false)]);
    // After DRIVER_OK.
    driver.place(1);
    assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_READY), 0);
    driver.set(VIRTIO_MMIO_QUEUE_SEL, 0);
    driver.set(VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_READY), 1);
    // A ring that is none.
    driver.set(VIRTIO_MMIO_QUEUE_SEL, 7);
    driver.set(VIRTIO_MMIO_QUEUE_NUM, 8);
}

#[test]
fn a_device_that_cannot_serve_needs_a_reset() {
    let (told, hear) = channel();
    let mut driver = Driver::untouched(Probe { told, refuse: true });
    driver.prepare(u64::MAX);
    driver.set_status(15);
    assert_eq!((driver.status(), driver.line.asserted()), (0x4f, true));
    driver.set_status(0);
    assert_eq!((driver.status(), driver.line.asserted()), (0, false));
    let expected = [Told::Activate(vec![256, 64], true), Told::Reset];
    assert_eq!(heard(&hear), expected);
}

#[test]
fn interrupts_last_until_acknowledged() {
    let driver = Driver::untouched(Probe {
        told: channel().0,
        refuse: false,
    });
    let interrupt = &driver.transport.interrupt;
    let status = || driver.get(VIRTIO_MMIO_INTERRUPT_STATUS);
    assert_eq!((status(), driver.line.asserted()), (0, false));
    interrupt.used_buffers();
    interrupt.used_buffers();
    assert_eq!((status(), driver.line.asserted()), (1, true));
    interrupt.needs_reset("this is a test");
    assert_eq!((status(), driver.status()), (3, 0x40));
    driver.set(VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_eq!((status(), driver.line.asserted()), (2, true));
    driver.set(VIRTIO_MMIO_INTERRUPT_ACK, u32::MAX);
    assert_eq!((status(), driver.line.asserted()), (0, false));
    driver.set(VIRTIO_MMIO_INTERRUPT_ACK, u32::MAX);
    // The status is no event, and stays.
    assert_eq!(driver.status(), 0x40);
    interrupt.used_buffers();
    driver.set_status(0);
    assert_eq!((status(), driver.line.asserted()), (0, false));
    assert_eq!(driver.status(), 0);
}

#[test]
fn the_line_follows_the_status_whoever_changes_it() {
    let driver = Driver::untouched(Probe {
        told: channel().0,
        refuse: false,
    });
    let interrupt = &driver.transport.interrupt;
    std::thread::scope(|scope| {
        // The line itself insists on hearing of changes only.
        for _ in 0..2 {
            scope.spawn(|| (0..20_000).for_each(|_| interrupt.used_buffers()));
            scope.spawn(|| (0..20_000).for_each(|_| assert!(driver.interrupted() < 2)));
        }
    });
    let status = driver.get(VIRTIO_MMIO_INTERRUPT_STATUS);
    assert_eq!(driver.line.asserted(), status != 0);
}

#[test]
fn only_words_reach_registers() {
    let (driver, _) = prepared();
    for (offset, len) in [
        (0_u64, 1),
        (0, 2),
        (0, 8),
        (1, 4),
        (2, 4),
        (0xfc, 8),
        (3, 1),
    ] {
        let mut data = vec![0xff; len];
        driver.transport.read(offset, &mut data);
        assert_eq!(data, vec![0; len], "{offset} {len}");
    }
    let status = u64::from(VIRTIO_MMIO_STATUS);
    for (offset, len) in [(status, 1), (status, 2), (status, 8), (status - 4, 8)] {
        driver.transport.write(offset, &vec![0; len]);
        assert_eq!(driver.status(), 11);
    }
}

#[test]
fn the_configuration_is_read_in_any_size() {
    let (driver, _) = probe();
    let read = |offset: u64, len: usize| {
        let mut data = vec![0xff; len];
        driver.transport.read(0x100 + offset, &mut data);
        data
    };
    assert_eq!(read(0, 1), [1]);
    assert_eq!(read(3, 2), [4, 5]);
    assert_eq!(read(1, 4), [2, 3, 4, 5]);
    assert_eq!(read(2, 8), [3, 4, 5, 6, 7, 8, 9, 10]);
    assert_eq!(read(9, 4), [10, 11, 0, 0]);
    assert_eq!(read(11, 8), [0; 8]);
    assert_eq!(read(0xf8, 8), [0; 8]);
    driver.transport.write(0x100, &[9; 4]);
    assert_eq!(read(0, 4), [1, 2, 3, 4]);
}

#[test]
fn a_reset_forgets_everything() {
    let (mut driver, told) = prepared();
    driver.set_status(15);
    driver.set(VIRTIO_MMIO_QUEUE_SEL, 1);
    driver.set_status(0);
    // The selected ring is the first again, which nobody has set up.
    assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_NUM_MAX), 256);
    assert_eq!(driver.get(VIRTIO_MMIO_QUEUE_READY), 0);
    driver.set_status(1);
    driver.set_status(3);
    driver.set_status(11);
    assert_eq!(driver.status(), 3, "features are forgotten");
    driver.take_features(VERSION_1);
    driver.set_status(11);
    driver.set_status(15);
    let expected = [
        Told::Activate(vec![256, 64], true),
        Told::Reset,
        Told::Activate(vec![0, 0], false),
    ];
    assert_eq!(heard(&told), expected);
    driver.start(u64::MAX);
}

/// Many processors at once, and the device's own thread: the line insists on hearing of changes
/// only, and the last reset leaves nothing behind.
#[test]
fn processors_meet() {
    let guest = crate::vmm::vsock::GuestCid::try_from(3).unwrap();
    let (device, _door) = crate::vmm::vsock::Vsock::start(guest).unwrap();
    let mut driver = Driver::untouched(device);
    driver.prepare(u64::MAX);
    let ready = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for processor in 0..4 {
            let (driver, ready) = (&driver, &ready);
            scope.spawn(move || {
                ready.wait();
                for round in 0..500_u32 {
                    match processor {
                        0 => driver.set_status(0),
                        1 => drop(driver.interrupted()),
                        2 => driver.notify(1),
                        _ => driver.take_features(VERSION_1),
                    }
                    driver.set_status([1, 3, 11, 15][(round % 4) as usize]);
                    driver.place((round % 3) as usize);
                }
            });
        }
    });
    driver.set_status(0);
    assert!(!driver.line.asserted());
    driver.start(u64::MAX);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_driver_confuses_the_transport(data in prop::collection::vec(any::<u8>(), 0..3000)) {
        misbehave::transport(&data);
    }

    #[test]
    fn no_driver_confuses_the_disk(data in prop::collection::vec(any::<u8>(), 0..3000)) {
        misbehave::disk(&data);
    }

    #[test]
    fn no_driver_confuses_the_random_numbers(data in prop::collection::vec(any::<u8>(), 0..3000)) {
        misbehave::random_numbers(&data);
    }

    #[test]
    fn no_driver_confuses_the_streams(data in prop::collection::vec(any::<u8>(), 0..3000)) {
        misbehave::streams(&data);
    }
}
