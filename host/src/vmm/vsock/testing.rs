//! A guest's driver, small enough to be read and free to misbehave: real rings in real guest
//! memory, packets by hand.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests may fail"
)]

use super::device::{BELL, Device};
use super::host::VsockHost;
use super::packet::{GuestCid, HOST_CID, Header, Operation, Shutdown, SocketType};
use super::poll::{MioPoller, Readiness, Token};
use std::collections::VecDeque;
use std::time::Duration;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub(super) const CID: u64 = 3;
/// Descriptors of each ring.
pub(super) const SIZE: u16 = 128;
/// A buffer for packets to the guest, as Linux has them.
pub(super) const RX_BUFFER: u32 = 4096;
/// Room for one packet of the guest's.
pub(super) const TX_BUFFER: u64 = 80 << 10;

const RX_RING: u64 = 0x1_0000;
const TX_RING: u64 = 0x2_0000;
const RX_BUFFERS: u64 = 0x10_0000;
pub(super) const TX_BUFFERS: u64 = 0x20_0000;
pub(super) const MEMORY: u64 = 32 << 20;

/// The bits of a descriptor's flags.
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;

/// The driver's side of a ring.
#[derive(Debug)]
pub(super) struct Ring {
    base: u64,
    pub(super) offered: u16,
    taken: u16,
}

impl Ring {
    fn new(mem: &GuestMemoryMmap, base: u64) -> (Self, Queue) {
        let ring = Self {
            base,
            offered: 0,
            taken: 0,
        };
        mem.write_slice(&vec![0; 0x3000], GuestAddress(base))
            .unwrap();
        let mut queue = Queue::new(1024).unwrap();
        queue.set_size(SIZE);
        queue.set_desc_table_address(Some(base as u32), Some(0));
        queue.set_avail_ring_address(Some(ring.avail() as u32), Some(0));
        queue.set_used_ring_address(Some(ring.used() as u32), Some(0));
        queue.set_event_idx(true);
        queue.set_ready(true);
        (ring, queue)
    }

    pub(super) fn avail(&self) -> u64 {
        self.base + 0x1000
    }

    fn used(&self) -> u64 {
        self.base + 0x2000
    }

    pub(super) fn describe(
        &self,
        mem: &GuestMemoryMmap,
        index: u16,
        addr: u64,
        len: u32,
        flags: u16,
        next: u16,
    ) {
        let at = self.base + u64::from(index) * 16;
        mem.write_obj(addr, GuestAddress(at)).unwrap();
        mem.write_obj(len, GuestAddress(at + 8)).unwrap();
        mem.write_obj(flags, GuestAddress(at + 12)).unwrap();
        mem.write_obj(next, GuestAddress(at + 14)).unwrap();
    }

    pub(super) fn offer(&mut self, mem: &GuestMemoryMmap, head: u16) {
        let slot = self.avail() + 4 + u64::from(self.offered % SIZE) * 2;
        mem.write_obj(head, GuestAddress(slot)).unwrap();
        self.offered = self.offered.wrapping_add(1);
        self.set_offered(mem, self.offered);
    }

    pub(super) fn set_offered(&self, mem: &GuestMemoryMmap, index: u16) {
        mem.write_obj(index, GuestAddress(self.avail() + 2))
            .unwrap();
    }

    fn take(&mut self, mem: &GuestMemoryMmap) -> Option<(u32, u32)> {
        let index: u16 = mem.read_obj(GuestAddress(self.used() + 2)).unwrap();
        if index == self.taken {
            return None;
        }
        let at = self.used() + 4 + u64::from(self.taken % SIZE) * 8;
        self.taken = self.taken.wrapping_add(1);
        let head = mem.read_obj(GuestAddress(at)).unwrap();
        Some((head, mem.read_obj(GuestAddress(at + 4)).unwrap()))
    }

    /// Chains that the device holds.
    pub(super) fn outstanding(&self, mem: &GuestMemoryMmap) -> u16 {
        let used: u16 = mem.read_obj(GuestAddress(self.used() + 2)).unwrap();
        self.offered.wrapping_sub(used)
    }
}

/// A guest and the device that it talks to.
pub(super) struct Guest {
    pub(super) mem: GuestMemoryMmap,
    pub(super) device: Device<MioPoller>,
    pub(super) door: VsockHost,
    pub(super) rx: Ring,
    pub(super) tx: Ring,
    pub(super) rx_queue: Queue,
    pub(super) tx_queue: Queue,
    /// Packets that arrived and that no test has looked at.
    pub(super) inbox: VecDeque<(Header, Vec<u8>)>,
    /// Gives every buffer back to the device as soon as it was read.
    pub(super) recycle: bool,
    free_tx: Vec<u16>,
}

impl Guest {
    /// A guest with all its buffers offered.
    pub(super) fn new() -> Self {
        let mut guest = Self::without_buffers();
        guest.recycle = true;
        for index in 0..SIZE {
            guest.offer_rx(index);
        }
        guest
    }

    pub(super) fn without_buffers() -> Self {
        let mem = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
        let cid = GuestCid::try_from(CID).unwrap();
        let (device, door) = Device::new(cid, MioPoller::new().unwrap()).unwrap();
        let (rx, rx_queue) = Ring::new(&mem, RX_RING);
        let (tx, tx_queue) = Ring::new(&mem, TX_RING);
        Self {
            mem,
            device,
            door,
            rx,
            tx,
            rx_queue,
            tx_queue,
            inbox: VecDeque::new(),
            recycle: false,
            free_tx: (0..SIZE / 2).collect(),
        }
    }

    /// The driver starts anew.
    pub(super) fn restart(&mut self) {
        self.device.reset();
        (self.rx, self.rx_queue) = Ring::new(&self.mem, RX_RING);
        (self.tx, self.tx_queue) = Ring::new(&self.mem, TX_RING);
        self.inbox.clear();
        self.free_tx = (0..SIZE / 2).collect();
        if self.recycle {
            for index in 0..SIZE {
                self.offer_rx(index);
            }
        }
    }

    pub(super) fn offer_rx(&mut self, index: u16) {
        let addr = RX_BUFFERS + u64::from(index) * u64::from(RX_BUFFER);
        self.rx
            .describe(&self.mem, index, addr, RX_BUFFER, WRITE, 0);
        self.rx.offer(&self.mem, index);
    }

    /// A header from the guest's `port` to the host's, with credit for everything.
    pub(super) fn header(op: Operation, guest: u32, host: u32) -> Header {
        Header {
            src_cid: CID,
            dst_cid: HOST_CID,
            src_port: guest,
            dst_port: host,
            len: 0,
            socket_type: SocketType::STREAM,
            op,
            flags: 0,
            buf_alloc: 1 << 20,
            fwd_cnt: 0,
        }
    }

    /// Puts a packet into the ring, as two descriptors.
    pub(super) fn queue(&mut self, header: &Header, payload: &[u8]) {
        let slot = self.free_tx.pop().expect("the ring is full");
        let addr = TX_BUFFERS + u64::from(slot) * TX_BUFFER;
        self.mem
            .write_slice(&header.encode(), GuestAddress(addr))
            .unwrap();
        self.mem
            .write_slice(payload, GuestAddress(addr + 64))
            .unwrap();
        let (head, second) = (slot * 2, slot * 2 + 1);
        let flags = if payload.is_empty() { 0 } else { NEXT };
        self.tx
            .describe(&self.mem, head, addr, Header::LEN as u32, flags, second);
        self.tx
            .describe(&self.mem, second, addr + 64, payload.len() as u32, 0, 0);
        self.tx.offer(&self.mem, head);
    }

    /// Sends a packet and lets the device work.
    pub(super) fn send(&mut self, mut header: Header, payload: &[u8]) {
        header.len = payload.len() as u32;
        self.queue(&header, payload);
        self.work();
    }

    pub(super) fn send_op(&mut self, op: Operation, guest: u32, host: u32) {
        self.send(Self::header(op, guest, host), &[]);
    }

    pub(super) fn send_data(&mut self, guest: u32, host: u32, payload: &[u8]) {
        self.send(Self::header(Operation::RW, guest, host), payload);
    }

    pub(super) fn send_shutdown(&mut self, guest: u32, host: u32, shutdown: Shutdown) {
        let mut header = Self::header(Operation::SHUTDOWN, guest, host);
        header.flags = shutdown.to_flags();
        self.send(header, &[]);
    }

    /// Lets the device do everything that it can do without waiting.
    pub(super) fn work(&mut self) {
        let now = Some(Duration::ZERO);
        loop {
            let events = self.device.poller_mut().events(now).unwrap();
            let quiet = events.is_empty();
            self.tell(events);
            let served = self
                .device
                .serve(&self.mem, &mut self.rx_queue, &mut self.tx_queue);
            let collected = self.collect();
            if quiet && !served.more && !collected {
                return;
            }
        }
    }

    /// Waits until something happens at the host's side, then works.
    pub(super) fn wait(&mut self) {
        let limit = Some(Duration::from_secs(20));
        let events = self.device.poller_mut().events(limit).unwrap();
        assert!(!events.is_empty(), "nothing happened");
        self.tell(events);
        self.work();
    }

    fn tell(&mut self, events: Vec<(Token, Readiness)>) {
        for (token, readiness) in events {
            if token == BELL {
                self.device.on_wishes();
            } else {
                self.device.on_readiness(token, readiness);
            }
        }
    }

    /// The next packet for the guest. Waits for it.
    pub(super) fn receive(&mut self) -> (Header, Vec<u8>) {
        self.work();
        loop {
            if let Some(packet) = self.inbox.pop_front() {
                return packet;
            }
            self.wait();
        }
    }

    pub(super) fn receive_op(&mut self, op: Operation) -> Header {
        let (header, _) = self.receive();
        assert_eq!(header.op, op, "{header:?}");
        header
    }

    pub(super) fn assert_silent(&mut self) {
        self.work();
        assert!(self.inbox.is_empty(), "{:?}", self.inbox);
    }

    /// Takes back what the device is done with.
    fn collect(&mut self) -> bool {
        let mut any = false;
        while let Some((head, _)) = self.tx.take(&self.mem) {
            any = true;
            self.free_tx.push(head as u16 / 2);
        }
        while let Some((head, len)) = self.rx.take(&self.mem) {
            any = true;
            if len > 0 {
                let addr = GuestAddress(RX_BUFFERS + u64::from(head) * u64::from(RX_BUFFER));
                let mut bytes = vec![0; len as usize];
                self.mem.read_slice(&mut bytes, addr).unwrap();
                let (header, payload) = bytes.split_first_chunk().unwrap();
                self.inbox
                    .push_back((Header::decode(header), payload.to_vec()));
            }
            if self.recycle {
                self.offer_rx(head as u16);
            }
        }
        any
    }
}
