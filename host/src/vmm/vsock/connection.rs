//! One stream between a port of the guest and a host program's socket.
//!
//! ```text
//! host-initiated    Requested ──RESPONSE──► Open
//! guest-initiated   REQUEST ──────────────► Open
//! Open ── both directions shut by the guest, and all it sent delivered ──► Reset (RST to send)
//! Open ── RST from the guest, and all it sent delivered ─────────────────► Gone
//! any  ── violation ─────────────────────────────────────────────────────► Gone (the device sends RST)
//! ```
//! A host program that closes its socket makes this side send SHUTDOWN for both directions. The
//! connection then waits, without a socket, for the guest's RST.
//!
//! Invariants:
//! - At most [`BUF_ALLOC`] bytes from the guest are held for a host program that does not read.
//! - Bytes count as sent or forwarded at the moment they moved, before anything that can fail.
//! - The guest is never asked for credit. It tells of space in its own time, as it has to for the
//!   kernel's vhost-vsock, which does not ask either. Asking was tried: an answer comes at once and
//!   frees little, so the stream went on in small pieces, at a fifth of the speed.
//! - What the guest sent before it shut down or reset still reaches the host program.

use super::credit::{BUF_ALLOC, OwnCredit, PeerCredit};
use super::packet::{Header, Operation, Port, Shutdown};
use super::poll::{Readiness, Token};
use super::socket::{HostSocket, Moved};
use crate::vmm::devices::virtio::chain::Pieces;
use std::collections::VecDeque;
use std::io;
use std::net;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::SyncSender;
use vm_memory::bitmap::BitmapSlice;

/// Most payload in one packet to the guest: what Linux takes (`VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`).
const MOST_PAYLOAD: usize = 64 << 10;

/// A connection's name: its two ports. The addresses are always the host's and the guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) host: Port,
    pub(super) guest: Port,
}

/// The guest broke the protocol. The connection is over and the guest gets an RST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Violation(pub(super) &'static str);

/// A host program that waits for the guest's answer to a REQUEST.
#[derive(Debug)]
pub(super) struct Opening {
    /// What it gets once the guest has accepted.
    pub(super) stream: UnixStream,
    pub(super) reply: SyncSender<io::Result<UnixStream>>,
    pub(super) ticket: u64,
}

impl Opening {
    fn refuse(self, kind: io::ErrorKind) {
        // Nobody may be waiting any more.
        let _ = self.reply.try_send(Err(kind.into()));
    }
}

#[derive(Debug)]
enum Phase {
    Requested {
        sent: bool,
        opening: Opening,
    },
    Open,
    /// An RST is still to be sent.
    Reset,
    Gone,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) key: Key,
    pub(super) token: Token,
    /// In the device's queue of connections that have something for the guest.
    pub(super) queued: bool,
    /// The poller watches the socket for space.
    pub(super) write_watched: bool,
    phase: Phase,
    socket: Option<HostSocket>,
    peer: PeerCredit,
    own: OwnCredit,
    /// From the guest, not yet taken by the socket.
    backlog: VecDeque<u8>,
    /// What the guest is done with, and what of that the socket knows.
    guest_shutdown: Shutdown,
    applied: Shutdown,
    /// What the host program is done with, and what of that the guest knows.
    host_shutdown: Shutdown,
    told: Shutdown,
    response_due: bool,
    credit_due: bool,
    guest_reset: bool,
    readable: bool,
    /// Which directions of the socket have ended, by the poller's word.
    read_closed: bool,
    write_closed: bool,
}

impl Connection {
    fn new(key: Key, token: Token, socket: HostSocket, phase: Phase) -> Self {
        Self {
            key,
            token,
            queued: false,
            write_watched: false,
            phase,
            socket: Some(socket),
            peer: PeerCredit::default(),
            own: OwnCredit::default(),
            backlog: VecDeque::new(),
            guest_shutdown: Shutdown::NONE,
            applied: Shutdown::NONE,
            host_shutdown: Shutdown::NONE,
            told: Shutdown::NONE,
            response_due: false,
            credit_due: false,
            guest_reset: false,
            readable: false,
            read_closed: false,
            write_closed: false,
        }
    }

    /// A connection that the host opens.
    pub(super) fn requested(key: Key, token: Token, socket: HostSocket, opening: Opening) -> Self {
        Self::new(
            key,
            token,
            socket,
            Phase::Requested {
                sent: false,
                opening,
            },
        )
    }

    /// A connection that the guest opened with `request` and that somebody has accepted.
    pub(super) fn accepted(key: Key, token: Token, socket: HostSocket, request: &Header) -> Self {
        let mut connection = Self::new(key, token, socket, Phase::Open);
        connection.response_due = true;
        // Nothing was sent yet, so any count but zero would be false; it gains the guest nothing.
        let _ = connection.peer.update(request.buf_alloc, 0);
        connection
    }

    pub(super) fn socket(&self) -> Option<&HostSocket> {
        self.socket.as_ref()
    }

    /// Whether nothing is left to be done.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self.phase, Phase::Gone)
    }

    /// Whether only the guest's farewell is missing, so that the entry may go when space is short.
    pub(super) fn is_expendable(&self) -> bool {
        self.socket.is_none()
    }

    /// The guest reset the connection; it lives only until the host program has read everything.
    pub(super) fn is_left_by_guest(&self) -> bool {
        self.guest_reset
    }

    /// Bytes wait for space in the socket.
    pub(super) fn is_write_blocked(&self) -> bool {
        self.socket.is_some() && !self.backlog.is_empty()
    }

    /// Bytes of the guest's that wait for the host program.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn held(&self) -> usize {
        self.backlog.len()
    }

    /// The guest has not heard of this connection.
    pub(super) fn is_unspoken(&self) -> bool {
        matches!(self.phase, Phase::Requested { sent: false, .. })
    }

    pub(super) fn ticket(&self) -> Option<u64> {
        match &self.phase {
            Phase::Requested { opening, .. } => Some(opening.ticket),
            _ => None,
        }
    }

    /// Gives the socket back when both sides are done with it.
    pub(super) fn take_finished_socket(&mut self) -> Option<HostSocket> {
        let finished = match self.phase {
            Phase::Requested { .. } => false,
            Phase::Open => self.host_shutdown == Shutdown::BOTH,
            Phase::Reset | Phase::Gone => true,
        };
        if finished { self.socket.take() } else { None }
    }

    /// Ends the connection from this side; a host program that waits for it gets an error.
    pub(super) fn abort(&mut self, kind: io::ErrorKind) {
        if let Phase::Requested { opening, .. } = std::mem::replace(&mut self.phase, Phase::Gone) {
            opening.refuse(kind);
        }
    }

    /// Ends a connection whose opener no longer waits.
    pub(super) fn cancel(&mut self) {
        self.phase = match self.phase {
            Phase::Requested { sent: false, .. } => Phase::Gone,
            _ => Phase::Reset,
        };
    }

    /// Takes a packet of the guest's. `payload` is everything behind the header.
    pub(super) fn on_packet<B: BitmapSlice>(
        &mut self,
        header: &Header,
        payload: Pieces<'_, B>,
    ) -> Result<(), Violation> {
        match self.phase {
            Phase::Requested { sent, .. } => self.on_answer(header, sent),
            Phase::Open => self.on_open_packet(header, payload),
            // An RST is on its way, or was.
            Phase::Reset | Phase::Gone => Ok(()),
        }
    }

    fn on_answer(&mut self, header: &Header, sent: bool) -> Result<(), Violation> {
        match header.op {
            Operation::RESPONSE if sent => {
                self.update_credit(header)?;
                if let Phase::Requested { opening, .. } =
                    std::mem::replace(&mut self.phase, Phase::Open)
                    && opening.reply.try_send(Ok(opening.stream)).is_err()
                {
                    self.phase = Phase::Reset;
                }
                Ok(())
            }
            Operation::RST if sent => {
                self.abort(io::ErrorKind::ConnectionRefused);
                Ok(())
            }
            _ => Err(Violation("answer to a REQUEST is neither RESPONSE nor RST")),
        }
    }

    fn on_open_packet<B: BitmapSlice>(
        &mut self,
        header: &Header,
        payload: Pieces<'_, B>,
    ) -> Result<(), Violation> {
        if header.op == Operation::RST {
            self.guest_reset = true;
            self.guest_shutdown = Shutdown::BOTH;
            self.apply_guest_shutdown();
            return Ok(());
        }
        self.update_credit(header)?;
        match header.op {
            Operation::RW => self.on_data(header.len, payload)?,
            Operation::SHUTDOWN => {
                let flags = Shutdown::from_flags(header.flags);
                self.guest_shutdown = self.guest_shutdown.union(flags);
                self.apply_guest_shutdown();
            }
            Operation::CREDIT_UPDATE => {}
            Operation::CREDIT_REQUEST => self.credit_due = true,
            Operation::REQUEST => return Err(Violation("REQUEST on an open connection")),
            Operation::RESPONSE => return Err(Violation("RESPONSE on an open connection")),
            _ => return Err(Violation("unknown operation")),
        }
        Ok(())
    }

    fn update_credit(&mut self, header: &Header) -> Result<(), Violation> {
        self.peer
            .update(header.buf_alloc, header.fwd_cnt)
            .map_err(|_| Violation("fwd_cnt counts bytes that were never sent"))
    }

    fn on_data<B: BitmapSlice>(
        &mut self,
        len: u32,
        mut rest: Pieces<'_, B>,
    ) -> Result<(), Violation> {
        if self.guest_shutdown.send {
            return Err(Violation("data after the end of sending"));
        }
        let held = u32::try_from(self.backlog.len()).unwrap_or(BUF_ALLOC);
        if len > BUF_ALLOC.saturating_sub(held) {
            return Err(Violation("more data than credit"));
        }
        let bytes = usize::try_from(len).unwrap_or(usize::MAX);
        let Some(mut data) = rest.split_front(bytes) else {
            return Err(Violation("len exceeds the descriptors"));
        };
        if bytes == 0 {
            return Ok(());
        }
        let Some(socket) = self.socket.as_ref().filter(|_| !self.host_shutdown.receive) else {
            // The host program reads no more, and the guest was or will be told.
            self.own.forwarded(len);
            return Ok(());
        };
        if self.backlog.is_empty() {
            match socket.send_pieces(&data) {
                Moved::Bytes(sent) => {
                    self.own.forwarded(u32::try_from(sent).unwrap_or(len));
                    // The kernel took at most what it was given.
                    let _ = data.split_front(sent);
                }
                Moved::WouldBlock => {}
                Moved::Gone => {
                    self.own.forwarded(len);
                    self.stop_reading();
                    return Ok(());
                }
            }
        }
        data.append_to(&mut self.backlog);
        Ok(())
    }

    /// Neither direction of the socket is open any more.
    fn is_hung_up(&self) -> bool {
        self.read_closed && self.write_closed
    }

    /// Takes what the poller saw.
    pub(super) fn on_readiness(&mut self, readiness: Readiness) {
        self.readable |= readiness.readable;
        self.read_closed |= readiness.read_closed;
        self.write_closed |= readiness.write_closed;
        if readiness.writable {
            self.flush();
        }
        // With nothing left to be read there is no end of file to wait for.
        if self.is_hung_up() && (self.host_shutdown.send || self.guest_shutdown.receive) {
            self.host_shutdown = Shutdown::BOTH;
            self.stop_reading();
        }
    }

    /// Sends what waits for the socket.
    fn flush(&mut self) {
        while let Some(socket) = &self.socket {
            let (front, _) = self.backlog.as_slices();
            if front.is_empty() {
                break;
            }
            match socket.send_bytes(front) {
                Moved::Bytes(0) | Moved::WouldBlock => break,
                Moved::Bytes(sent) => {
                    let sent = sent.min(self.backlog.len());
                    self.own.forwarded(u32::try_from(sent).unwrap_or(BUF_ALLOC));
                    self.backlog.drain(..sent);
                }
                Moved::Gone => self.stop_reading(),
            }
        }
        self.apply_guest_shutdown();
    }

    /// The host program takes no more: what it would have got is dropped, and the guest told.
    fn stop_reading(&mut self) {
        let dropped = u32::try_from(self.backlog.len()).unwrap_or(BUF_ALLOC);
        self.own.forwarded(dropped);
        self.backlog = VecDeque::new();
        self.host_shutdown.receive = true;
        self.apply_guest_shutdown();
    }

    /// Passes on to the socket what the guest is done with, sending only once all is delivered.
    fn apply_guest_shutdown(&mut self) {
        let Some(socket) = &self.socket else {
            if self.guest_shutdown == Shutdown::BOTH {
                self.finish();
            }
            return;
        };
        if self.guest_shutdown.receive && !self.applied.receive {
            socket.shutdown(net::Shutdown::Read);
            self.applied.receive = true;
        }
        if self.guest_shutdown.send && !self.applied.send && self.backlog.is_empty() {
            socket.shutdown(net::Shutdown::Write);
            self.applied.send = true;
        }
        if self.applied == Shutdown::BOTH {
            self.finish();
        }
    }

    fn finish(&mut self) {
        if matches!(self.phase, Phase::Open) {
            self.phase = if self.guest_reset {
                Phase::Gone
            } else {
                Phase::Reset
            };
        }
    }

    /// Whether [`produce`](Self::produce) may have something for the guest.
    pub(super) fn wants_to_speak(&self) -> bool {
        match self.phase {
            Phase::Requested { sent, .. } => !sent,
            Phase::Reset => true,
            Phase::Gone => false,
            Phase::Open if self.guest_reset => false,
            Phase::Open => {
                self.response_due
                    || self.credit_due
                    || self.own.announcement_due()
                    || self.told != self.host_shutdown
                    || self.may_pull() && self.peer.available() > 0
            }
        }
    }

    /// There may be bytes of the host program's for the guest.
    fn may_pull(&self) -> bool {
        self.readable
            && self.socket.is_some()
            && !self.guest_shutdown.receive
            && !self.host_shutdown.send
    }

    /// The next packet for the guest, if there is one. Its payload is in `space` already.
    pub(super) fn produce<B: BitmapSlice>(&mut self, space: &Pieces<'_, B>) -> Option<Outgoing> {
        let op = match &mut self.phase {
            Phase::Requested { sent, .. } => {
                if std::mem::replace(sent, true) {
                    return None;
                }
                Operation::REQUEST
            }
            Phase::Reset => {
                self.phase = Phase::Gone;
                Operation::RST
            }
            Phase::Gone => return None,
            Phase::Open if self.guest_reset => return None,
            Phase::Open if std::mem::take(&mut self.response_due) => Operation::RESPONSE,
            Phase::Open => return self.produce_open(space),
        };
        Some(self.outgoing(op, 0, 0))
    }

    fn produce_open<B: BitmapSlice>(&mut self, space: &Pieces<'_, B>) -> Option<Outgoing> {
        if let Some(len) = self.pull(space) {
            return Some(self.outgoing(Operation::RW, len, 0));
        }
        if self.told != self.host_shutdown {
            self.told = self.host_shutdown;
            return Some(self.outgoing(Operation::SHUTDOWN, 0, self.told.to_flags()));
        }
        if self.credit_due || self.own.announcement_due() {
            return Some(self.outgoing(Operation::CREDIT_UPDATE, 0, 0));
        }
        None
    }

    /// Moves bytes of the host program's into `space`, as many as credit allows.
    fn pull<B: BitmapSlice>(&mut self, space: &Pieces<'_, B>) -> Option<u32> {
        let credit = usize::try_from(self.peer.available()).unwrap_or(MOST_PAYLOAD);
        let room = space.len().min(credit).min(MOST_PAYLOAD);
        if !self.may_pull() || room == 0 {
            return None;
        }
        let target = space.first(room);
        match self.socket.as_ref()?.receive_pieces(&target) {
            Moved::Bytes(0) => {
                self.host_shutdown.send = true;
                if self.is_hung_up() {
                    self.stop_reading();
                }
                None
            }
            Moved::Bytes(received) => {
                let received = u32::try_from(received).unwrap_or(0);
                self.peer.sent(received);
                Some(received)
            }
            Moved::WouldBlock => {
                self.readable = false;
                None
            }
            Moved::Gone => {
                self.host_shutdown.send = true;
                self.stop_reading();
                None
            }
        }
    }

    fn outgoing(&mut self, op: Operation, len: u32, flags: u32) -> Outgoing {
        self.credit_due = false;
        let (buf_alloc, fwd_cnt) = self.own.announce();
        Outgoing {
            op,
            len,
            flags,
            buf_alloc,
            fwd_cnt,
        }
    }
}

/// A packet for the guest, but for its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) op: Operation,
    pub(super) len: u32,
    pub(super) flags: u32,
    pub(super) buf_alloc: u32,
    pub(super) fwd_cnt: u32,
}
