//! A guest and host programs that do what bytes say, against each other through the device and
//! real sockets, for property tests and for fuzzing.
//!
//! Whatever the bytes say, nothing grows beyond its bound, every packet to the guest makes sense,
//! every chain comes back, and a good guest is served in the end.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "tests may fail"
)]

use super::credit::BUF_ALLOC;
use super::device::{FIRST_PORT, MOST_CONNECTIONS, MOST_REPLIES};
use super::host::{Listening, Refused};
use super::packet::{HOST_CID, Header, Operation, SocketType};
use super::testing::{CID, Guest};
use crate::vmm::devices::misbehave::Decisions;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A packet, and how much payload really follows.
    Packet {
        header: Header,
        payload: usize,
    },
    /// A host program writes, reads, half-closes or goes.
    Write(usize, usize),
    Read(usize),
    ShutWrite(usize),
    ShutRead(usize),
    Close(usize),
    /// A host program asks for a connection to a port, or no longer waits for one.
    Connect(u32),
    Cancel(usize),
    /// A host program listens on a port, or no longer.
    Listen(usize),
    Buffers(u16),
    Restart,
}

/// Most payload behind a header: what a buffer of the guest's holds.
const MOST_PAYLOAD: u64 = 70_000;
/// Ports of the host's where somebody listens now and then.
const PORTS: usize = 3;
/// Streams that host programs keep, and connections that they wait for.
const KEPT: usize = 32;

impl Step {
    fn decide(decisions: &mut Decisions<'_>) -> Self {
        let mut which = |end| decisions.below(end) as usize;
        match which(20) {
            0..8 => Self::packet(decisions),
            8..10 => Self::Write(which(8), which(100_000)),
            10 => Self::Read(which(8)),
            11 => Self::ShutWrite(which(8)),
            12 => Self::ShutRead(which(8)),
            13 => Self::Close(which(8)),
            14 => Self::Connect(which(4) as u32),
            15 => Self::Cancel(which(4)),
            16 => Self::Listen(which(PORTS as u64)),
            17 | 18 => Self::Buffers(which(64) as u16),
            _ => Self::Restart,
        }
    }

    fn packet(decisions: &mut Decisions<'_>) -> Self {
        // Ports that host programs use, those that the device chooses, and any.
        let guest_port = decisions.below(4) as u32;
        let host_port = match decisions.below(16) {
            few @ 0..8 => (few % 4) as u32,
            few @ 8..15 => FIRST_PORT + (few - 8) as u32,
            _ => u32::from_le_bytes(decisions.bytes()),
        };
        let mut header = Header {
            op: Operation(1 + decisions.below(7) as u16),
            ..Guest::header(Operation::RW, guest_port, host_port)
        };
        header.buf_alloc = 1 << 18;
        if matches!(header.op, Operation::RW) {
            header.len = decisions.below(65_536) as u32;
        }
        if matches!(header.op, Operation::SHUTDOWN) {
            header.flags = decisions.below(8) as u32;
        }
        let mut payload = u64::from(header.len);
        // Each bit makes something odd.
        let odd: u8 = u8::from_le_bytes(decisions.bytes());
        if odd & 1 != 0 {
            header.fwd_cnt = decisions.value() as u32;
        }
        if odd & 2 != 0 {
            header.buf_alloc = decisions.value() as u32;
        }
        if odd & 4 != 0 {
            header.len = decisions.value() as u32;
        }
        if odd & 8 != 0 {
            payload = decisions.below(MOST_PAYLOAD);
        }
        match odd >> 4 {
            1 => header.src_port = decisions.value() as u32,
            2 => header.dst_cid = decisions.value(),
            3 => header.socket_type = SocketType(decisions.value() as u16),
            4 => header.op = Operation(decisions.value() as u16),
            5 => header.src_cid = decisions.value(),
            6 => header.flags = decisions.value() as u32,
            _ => {}
        }
        let payload = payload.min(MOST_PAYLOAD) as usize;
        Self::Packet { header, payload }
    }
}

/// Does what `data` says.
pub(crate) fn guest_and_host(data: &[u8]) {
    let mut decisions = Decisions(data);
    let steps = std::iter::from_fn(|| {
        let is_over = decisions.0.is_empty();
        (!is_over).then(|| Step::decide(&mut decisions))
    });
    run(steps);
}

/// A host program's wish for a connection.
type Asked = (Receiver<io::Result<UnixStream>>, u64);

/// The host programs.
struct Programs {
    streams: Vec<UnixStream>,
    asked: Vec<Asked>,
    accept: SyncSender<UnixStream>,
    accepted: Receiver<UnixStream>,
    listening: [Option<Listening>; PORTS],
    buffer: Vec<u8>,
}

impl Programs {
    fn new(guest: &Guest) -> Self {
        let (accept, accepted) = sync_channel(4);
        let mut programs = Self {
            streams: Vec::new(),
            asked: Vec::new(),
            accept,
            accepted,
            listening: [const { None }; PORTS],
            buffer: vec![0; 200_000],
        };
        for port in 0..PORTS {
            programs.listen(guest, port);
        }
        programs
    }

    /// Listens, or no longer.
    fn listen(&mut self, guest: &Guest, port: usize) {
        self.listening[port] = match self.listening[port].take() {
            Some(_) => None,
            None => {
                let accept = self.accept.clone();
                let take = Box::new(move |stream| accept.try_send(stream).map_err(|_| Refused));
                Some(guest.door.listen(port as u32, take).unwrap())
            }
        };
    }

    fn connect(&mut self, guest: &Guest, port: u32) {
        if self.asked.len() < KEPT
            && let Ok(asked) = guest.door.request(port)
        {
            self.asked.push(asked);
        }
    }

    fn cancel(&mut self, guest: &Guest, i: usize) {
        if i < self.asked.len() {
            let (_, ticket) = self.asked.remove(i);
            guest.door.cancel(ticket).unwrap();
        }
    }

    /// Takes the streams that there are by now.
    fn take(&mut self) {
        self.streams.extend(self.accepted.try_iter());
        let Self { asked, streams, .. } = self;
        asked.retain(|(answer, _)| match answer.try_recv() {
            Ok(result) => {
                streams.extend(result);
                false
            }
            Err(TryRecvError::Empty) => true,
            Err(TryRecvError::Disconnected) => false,
        });
        self.streams.truncate(KEPT);
        for stream in &self.streams {
            stream.set_nonblocking(true).unwrap();
        }
    }
}

/// What the guest granted, connection by connection.
#[derive(Default)]
struct Books {
    accounts: HashMap<(u32, u32), Account>,
    /// The device left packets in the ring, and nobody knows how much it had sent when it took them.
    unknown: bool,
}

/// One connection's.
#[derive(Default)]
struct Account {
    /// Bytes that the guest got.
    received: u64,
    /// Bytes that it was done with, by the furthest that it ever said.
    done: u64,
    /// Bytes that it was ready to get, at most, by all that it ever said.
    granted: u64,
}

impl Books {
    fn account(&mut self, guest: u32, host: u32) -> &mut Account {
        self.accounts.entry((guest, host)).or_default()
    }

    fn on_sent(&mut self, header: &Header) {
        let account = self.account(header.src_port, header.dst_port);
        // What it never got it cannot be done with, whatever it says.
        let done = account.received.min(header.fwd_cnt.into());
        // A count behind that is stale.
        account.done = account.done.max(done);
        let granted = account.done + u64::from(header.buf_alloc);
        account.granted = account.granted.max(granted);
    }

    fn on_received(&mut self, header: &Header) {
        let unknown = self.unknown;
        let account = self.account(header.dst_port, header.src_port);
        match header.op {
            // Counting begins.
            Operation::REQUEST | Operation::RESPONSE => {
                (account.received, account.done) = (0, 0);
            }
            Operation::RW => {
                account.received += u64::from(header.len);
                assert!(unknown || account.received <= account.granted, "{header:?}");
            }
            _ => {}
        }
    }
}

pub(super) fn run(steps: impl IntoIterator<Item = Step>) {
    let mut guest = Guest::without_buffers();
    let mut programs = Programs::new(&guest);
    let mut books = Books::default();
    for step in steps {
        if let Step::Packet { header, .. } = &step {
            books.on_sent(header);
        }
        perform(&mut guest, &mut programs, step);
        guest.work();
        programs.take();
        check(&guest);
        books.unknown |= guest.tx.outstanding(&guest.mem) > 0;
        for (header, _) in guest.inbox.drain(..) {
            books.on_received(&header);
        }
    }
    // With buffers enough, everything that waits gets through and the rings are empty.
    guest.recycle = true;
    offer_buffers(&mut guest, 100);
    guest.work();
    assert_eq!(guest.tx.outstanding(&guest.mem), 0);
    assert!(guest.device.replies.is_empty() && guest.device.speakers.is_empty());
    drop(programs);
    guest.work();
    check(&guest);
    serve(&mut guest);
}

fn perform(guest: &mut Guest, programs: &mut Programs, step: Step) {
    let Programs {
        streams, buffer, ..
    } = programs;
    match step {
        Step::Packet { header, payload } => {
            if guest.tx.outstanding(&guest.mem) < 40 {
                guest.queue(&header, &buffer[..payload]);
            }
        }
        Step::Write(i, len) => {
            if let Some(stream) = streams.get_mut(i) {
                let _ = stream.write(&buffer[..len]);
            }
        }
        Step::Read(i) => {
            if let Some(stream) = streams.get_mut(i) {
                let _ = stream.read(buffer);
            }
        }
        Step::ShutWrite(i) => {
            streams
                .get(i)
                .map(|stream| stream.shutdown(Shutdown::Write));
        }
        Step::ShutRead(i) => {
            streams.get(i).map(|stream| stream.shutdown(Shutdown::Read));
        }
        Step::Close(i) => {
            if i < streams.len() {
                streams.remove(i);
            }
        }
        Step::Connect(port) => programs.connect(guest, port),
        Step::Cancel(i) => programs.cancel(guest, i),
        Step::Listen(port) => programs.listen(guest, port),
        Step::Buffers(count) => {
            let there = guest.rx.outstanding(&guest.mem);
            offer_buffers(guest, there.saturating_add(count).min(100));
        }
        Step::Restart => guest.restart(),
    }
}

/// Offers buffers until the device has `count`.
fn offer_buffers(guest: &mut Guest, count: u16) {
    while guest.rx.outstanding(&guest.mem) < count {
        guest.offer_rx(guest.rx.offered % 128);
    }
}

fn check(guest: &Guest) {
    let device = &guest.device;
    assert!(!device.broken);
    assert!(device.connections.len() <= MOST_CONNECTIONS);
    assert!(device.replies.len() <= MOST_REPLIES);
    assert!(device.speakers.len() <= device.connections.len());
    for connection in device.connections.values() {
        assert!(connection.held() <= BUF_ALLOC as usize);
        assert!(!connection.is_gone());
        assert_eq!(
            connection.queued,
            device.speakers.contains(&connection.token)
        );
        assert!(connection.queued || !connection.wants_to_speak());
    }
    for (header, payload) in &guest.inbox {
        check_packet(header, payload);
    }
}

/// What any guest may rely on.
fn check_packet(header: &Header, payload: &[u8]) {
    assert_eq!(header.len as usize, payload.len(), "{header:?}");
    assert_eq!(header.dst_cid, CID, "{header:?}");
    if header.op == Operation::RST {
        // It answers whatever the guest sent, wherever that went.
        assert_eq!((header.len, header.flags), (0, 0), "{header:?}");
        return;
    }
    assert_eq!(header.src_cid, HOST_CID, "{header:?}");
    assert_eq!(header.socket_type, SocketType::STREAM, "{header:?}");
    assert_eq!(header.buf_alloc, BUF_ALLOC, "{header:?}");
    let is_known = (1..=6).contains(&header.op.0);
    let has_payload = header.op == Operation::RW;
    let has_flags = header.op == Operation::SHUTDOWN;
    assert!(is_known, "{header:?}");
    assert_eq!(header.len > 0, has_payload, "{header:?}");
    assert_eq!((1..=3).contains(&header.flags), has_flags, "{header:?}");
}

/// A guest that starts anew and behaves.
fn serve(guest: &mut Guest) {
    const PORTS: (u32, u32) = (9, 100);
    let (accept, accepted) = sync_channel::<UnixStream>(1);
    let take = Box::new(move |stream| accept.try_send(stream).map_err(|_| Refused));
    let _listening = guest.door.listen(PORTS.1, take).unwrap();
    guest.restart();
    guest.work();
    let answer = |guest: &mut Guest| {
        // What host programs asked for before may still come.
        let mut packets = guest.inbox.drain(..);
        packets.find(|(header, _)| (header.dst_port, header.src_port) == PORTS)
    };
    guest.send_op(Operation::REQUEST, PORTS.0, PORTS.1);
    let (response, _) = answer(guest).unwrap();
    assert_eq!(response.op, Operation::RESPONSE);
    let mut stream = accepted.try_recv().unwrap();
    guest.send_data(PORTS.0, PORTS.1, b"hello");
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    stream.write_all(b"world").unwrap();
    guest.work();
    let (data, payload) = answer(guest).unwrap();
    assert_eq!((data.op, &*payload), (Operation::RW, &b"world"[..]));
}
