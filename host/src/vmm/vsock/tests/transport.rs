//! The device with its own thread, behind registers: driven by a driver that knows nothing else.

use super::super::mmio::Vsock;
use super::super::packet::{GuestCid, Header, Operation};
use super::super::testing::{CID, Guest};
use super::{LONG, Refused};
use crate::vmm::devices::testing::{BUFFERS, Driver};
use crate::vmm::vsock::VsockHost;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, sync_channel};
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_STATUS};

const RX: usize = 0;
const TX: usize = 1;
/// Room for one packet.
const BUFFER: u32 = 4096;
/// Buffers for packets to the guest, one per descriptor.
const FOR_GUEST: u64 = BUFFERS;
/// Where packets of the guest's are made, one after the other.
const OF_GUEST: u64 = BUFFERS + 0x20_0000;

/// A guest that waits for interrupts as a real one does.
struct Machine {
    driver: Driver<Vsock>,
    door: VsockHost,
    /// Streams that the guest opened to port 2.
    accepted: Receiver<UnixStream>,
    /// Notifies by the register, or as KVM does it.
    by_eventfd: bool,
}

impl Machine {
    fn new() -> Self {
        let cid = GuestCid::try_from(CID).unwrap();
        let (device, door) = Vsock::start(cid).unwrap();
        let (streams, accepted) = sync_channel(8);
        let accept = Box::new(move |stream| streams.try_send(stream).map_err(|_| Refused));
        std::mem::forget(door.listen(2, accept).unwrap());
        let driver = Driver::untouched(device);
        Self {
            driver,
            door,
            accepted,
            by_eventfd: false,
        }
    }

    fn started() -> Self {
        let mut machine = Self::new();
        machine.start();
        machine
    }

    fn start(&mut self) {
        self.driver.start(u64::MAX);
        for index in 0..64 {
            self.driver
                .offer(RX, &[(FOR_GUEST + index * u64::from(BUFFER), BUFFER, true)]);
        }
        self.notify(RX);
    }

    fn notify(&self, ring: usize) {
        if !self.by_eventfd {
            return self.driver.notify(ring);
        }
        let notifiers = self.driver.transport.notifiers().unwrap();
        let notifier = &notifiers[ring];
        assert_eq!(notifier.queue, ring as u32);
        notifier.event.write(1).unwrap();
    }

    fn send(&mut self, mut header: Header, payload: &[u8]) {
        header.len = payload.len() as u32;
        self.driver.put(OF_GUEST, &header.encode());
        self.driver.put(OF_GUEST + 64, payload);
        let buffers = [
            (OF_GUEST, Header::LEN as u32, false),
            (OF_GUEST + 64, header.len, false),
        ];
        let head = self.driver.offer(TX, &buffers);
        self.notify(TX);
        // The buffer is used again, so the packet must have been taken.
        loop {
            if let Some((taken, _)) = self.driver.take(TX) {
                assert_eq!(taken, u32::from(head));
                return;
            }
            self.driver.line.wait();
            self.driver.interrupted();
        }
    }

    fn send_op(&mut self, op: Operation, guest: u32, host: u32) {
        self.send(Guest::header(op, guest, host), &[]);
    }

    fn receive(&mut self) -> (Header, Vec<u8>) {
        loop {
            if let Some((head, len)) = self.driver.take(RX) {
                let at = FOR_GUEST + u64::from(head) * u64::from(BUFFER);
                let bytes = self.driver.bytes(at, len as usize);
                let (header, payload) = bytes.split_first_chunk().unwrap();
                return (Header::decode(header), payload.to_vec());
            }
            self.driver.line.wait();
            self.driver.interrupted();
        }
    }

    fn receive_op(&mut self, op: Operation) -> Header {
        let (header, _) = self.receive();
        assert_eq!(header.op, op, "{header:?}");
        header
    }

    /// A stream that the guest opened from its port 1 to the host's port 2.
    fn opened(&mut self) -> UnixStream {
        self.send_op(Operation::REQUEST, 1, 2);
        self.receive_op(Operation::RESPONSE);
        let stream = self.accepted.recv_timeout(LONG).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    }

    fn exchange(&mut self) {
        let mut stream = self.opened();
        self.send(Guest::header(Operation::RW, 1, 2), b"hello");
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        stream.write_all(b"welcome").unwrap();
        assert_eq!(self.receive().1, b"welcome");
        drop(stream);
        self.receive_op(Operation::SHUTDOWN);
        self.send_op(Operation::RST, 1, 2);
    }
}

#[test]
fn the_driver_learns_of_the_device() {
    let machine = Machine::new();
    assert_eq!(machine.driver.get(8), 19);
    assert_eq!(machine.driver.get(VIRTIO_MMIO_CONFIG), CID as u32);
    assert_eq!(machine.driver.get(VIRTIO_MMIO_CONFIG + 4), 0);
}

#[test]
fn streams_work_with_notifications_by_the_register() {
    Machine::started().exchange();
}

#[test]
fn streams_work_with_notifications_by_eventfd() {
    let mut machine = Machine::new();
    machine.by_eventfd = true;
    machine.start();
    machine.exchange();
}

#[test]
fn streams_work_again_and_again() {
    let mut machine = Machine::started();
    for _ in 0..20 {
        machine.exchange();
        machine.start();
    }
}

#[test]
fn a_driver_without_event_indices_is_served() {
    let mut machine = Machine::new();
    machine.driver.start(!(1 << 29));
    for index in 0..64 {
        let at = FOR_GUEST + index * u64::from(BUFFER);
        machine.driver.offer(RX, &[(at, BUFFER, true)]);
    }
    machine.notify(RX);
    machine.exchange();
}

#[test]
fn a_host_program_waits_for_the_driver() {
    let mut machine = Machine::new();
    let door = machine.door.clone();
    let connecting = std::thread::spawn(move || door.connect(9, LONG));
    machine.start();
    let request = machine.receive_op(Operation::REQUEST);
    machine.send_op(Operation::RESPONSE, 9, request.src_port);
    connecting.join().unwrap().unwrap();
}

#[test]
fn streams_end_when_the_driver_starts_anew_and_not_before() {
    let mut machine = Machine::started();
    let mut stream = machine.opened();
    machine.send(Guest::header(Operation::RW, 1, 2), b"last words");
    machine.driver.set(VIRTIO_MMIO_STATUS, 0);
    let mut bytes = [0; 10];
    stream.read_exact(&mut bytes).unwrap();
    stream.set_nonblocking(true).unwrap();
    let error = stream.read(&mut bytes).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    stream.set_nonblocking(false).unwrap();
    machine.start();
    assert_eq!(stream.read(&mut bytes).unwrap(), 0);
    machine.exchange();
}

#[test]
fn after_a_reset_memory_is_left_alone() {
    let mut machine = Machine::started();
    for _ in 0..50 {
        let mut stream = machine.opened();
        // Something to do at the very moment of the reset.
        let writer = std::thread::spawn(move || while stream.write_all(&[7; 1000]).is_ok() {});
        machine.driver.set(VIRTIO_MMIO_STATUS, 0);
        assert!(!machine.driver.line.asserted());
        let (at, len) = (FOR_GUEST, 64 * BUFFER as usize);
        let ring = machine.driver.rings[RX];
        machine.driver.put(at, &vec![0; len]);
        machine.driver.put(ring.used(), &[0; 4]);
        std::thread::yield_now();
        assert!(machine.driver.bytes(at, len).iter().all(|&byte| byte == 0));
        assert_eq!(machine.driver.bytes(ring.used(), 4), [0; 4]);
        assert!(!machine.driver.line.asserted());
        machine.start();
        writer.join().unwrap();
    }
}

#[test]
fn a_broken_ring_needs_a_reset() {
    let mut machine = Machine::started();
    machine.driver.rings[TX].offered = 5000;
    machine.driver.offer_head(TX, 0);
    machine.notify(TX);
    machine.driver.line.wait();
    assert_eq!(machine.driver.interrupted() & 2, 2);
    assert_eq!(machine.driver.status(), 0x4f);
    machine.start();
    machine.exchange();
}

#[test]
fn a_device_that_goes_ends_everything() {
    let mut machine = Machine::started();
    let mut stream = machine.opened();
    let Machine { driver, door, .. } = machine;
    drop(driver);
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    let error = door.connect(1, LONG).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotConnected);
}
