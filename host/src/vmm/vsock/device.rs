//! The virtio-vsock device: who is connected to whom, and what the rings carry.
//!
//! The device knows neither how its rings reached it nor who waits for its sockets. A transport
//! (vhost-user for QEMU, virtio-mmio for engines of our own) owns guest memory and rings, waits for
//! kicks, for the poller and for the mailbox, and calls:
//! - [`Device::on_wishes`] when the [bell](BELL) is readable,
//! - [`Device::on_readiness`] for each socket the poller saw,
//! - [`Device::serve`] after each of these and after each kick,
//! - [`Device::reset`] when the driver starts anew.
//!
//! Everything that the guest can make grow is bounded: connections by [`MOST_CONNECTIONS`], bytes
//! per connection by its credit, resets that wait for a buffer by [`MOST_REPLIES`] (while they are
//! at that, packets of the guest stay in the ring), work per call by [`BUDGET`].
//!
//! Only streams are offered: no SEQPACKET, and nothing else has a feature bit.

use super::connection::{Connection, Key, Opening};
use super::host::{Accept, Mailbox, Refused, VsockHost, Wish};
use super::packet::{GuestCid, HOST_CID, Header, Operation, Port, SocketType};
use super::poll::{Poller, Readiness, Token};
use super::socket::HostSocket;
use super::{host, socket};
use crate::vmm::devices::virtio::chain;
use crate::vmm::rarely::Rarely;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use vm_memory::bitmap::BitmapSlice;

/// Rings that the device itself serves: to the guest, from the guest. Events go over a third one,
/// of which the device needs nothing.
#[cfg(target_os = "linux")]
pub(crate) const RINGS: usize = 2;

/// Most descriptors of a ring: what QEMU's virtio-mmio transport lets the driver choose.
pub(crate) const RING_SIZE: u16 = 1024;

/// Most connections at a time, of both directions together.
pub(super) const MOST_CONNECTIONS: usize = 1024;

/// Most resets of unknown connections that wait for a buffer of the guest's.
pub(super) const MOST_REPLIES: usize = 256;

/// Most chains of a ring that one call of [`Device::serve`] takes.
pub(super) const BUDGET: usize = 512;

/// The poller's token of the bell.
pub(crate) const BELL: Token = Token(0);

/// Ports for connections that the host opens, away from those that people choose.
pub(super) const FIRST_PORT: u32 = 1 << 30;
const LAST_PORT: u32 = (1 << 31) - 1;

/// See the module's documentation.
pub(crate) struct Device<P> {
    guest: GuestCid,
    pub(super) poller: P,
    mailbox: Mailbox,
    pub(super) connections: HashMap<Token, Connection>,
    by_key: HashMap<Key, Token>,
    listeners: HashMap<Port, Accept>,
    /// Connections that have something for the guest, each once, served in turn.
    pub(super) speakers: VecDeque<Token>,
    /// Resets for what is no connection.
    pub(super) replies: VecDeque<Header>,
    next_token: u64,
    next_port: u32,
    /// A ring's indices make no sense; it is left alone until the driver starts anew.
    pub(super) broken: bool,
    pub(super) violations: Rarely,
}

impl<P> std::fmt::Debug for Device<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device")
            .field("guest", &self.guest)
            .field("connections", &self.connections.len())
            .field("violations", &self.violations)
            .finish_non_exhaustive()
    }
}

impl<P: Poller> Device<P> {
    /// A device for `guest`, and the door to it. The bell is registered with `poller`.
    pub(crate) fn new(guest: GuestCid, poller: P) -> io::Result<(Self, VsockHost)> {
        let (door, mailbox) = host::pair()?;
        poller.add(mailbox.bell().as_fd(), BELL)?;
        let device = Self {
            guest,
            poller,
            mailbox,
            connections: HashMap::new(),
            by_key: HashMap::new(),
            listeners: HashMap::new(),
            speakers: VecDeque::new(),
            replies: VecDeque::new(),
            next_token: BELL.0,
            next_port: FIRST_PORT,
            broken: false,
            violations: Rarely::new(),
        };
        Ok((device, door))
    }

    /// The device's configuration space: the guest's CID. Reads behind its end give nothing.
    #[cfg(target_os = "linux")]
    pub(crate) fn config(&self, offset: u32, size: u32) -> Vec<u8> {
        let bytes = u64::from(self.guest).to_le_bytes();
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let take = usize::try_from(size).unwrap_or(usize::MAX);
        bytes.iter().copied().skip(skip).take(take).collect()
    }

    pub(crate) fn poller_mut(&mut self) -> &mut P {
        &mut self.poller
    }

    /// Makes the transport come back soon, by way of the bell.
    #[cfg(target_os = "linux")]
    pub(crate) fn ring_bell(&self) {
        self.mailbox.ring();
    }

    /// Forgets the driver's state: every connection ends, and whoever waits for one is told. Ports
    /// stay registered. What the host wants to open, and has not asked the guest for, stays too.
    pub(crate) fn reset(&mut self) {
        self.broken = false;
        self.replies.clear();
        let tokens: Vec<_> = self
            .connections
            .values()
            .filter(|connection| !connection.is_unspoken())
            .map(|connection| connection.token)
            .collect();
        for token in tokens {
            self.end(token, io::ErrorKind::ConnectionReset);
        }
    }

    /// Does what host programs wished for.
    pub(crate) fn on_wishes(&mut self) {
        let (wishes, closed) = self.mailbox.take();
        for wish in wishes {
            match wish {
                Wish::Connect {
                    port,
                    socket,
                    opening,
                } => self.open(port, socket, opening),
                Wish::Cancel { ticket } => self.cancel(|theirs| theirs == ticket),
                Wish::Listen { port, accept } => {
                    self.listeners.insert(port, accept);
                }
                Wish::Unlisten { port } => {
                    self.listeners.remove(&port);
                }
            }
        }
        if closed {
            self.cancel(|_| true);
        }
    }

    /// Tells a connection what the poller saw of its socket.
    pub(crate) fn on_readiness(&mut self, token: Token, readiness: Readiness) {
        // The connection may have ended since the poller looked.
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.on_readiness(readiness);
            self.settle(token);
        }
    }

    fn open(&mut self, port: Port, socket: UnixStream, opening: Opening) {
        let reply = opening.reply.clone();
        let opened = self.room().and_then(|()| {
            let host = self.free_port(port).ok_or(io::ErrorKind::AddrInUse)?;
            let socket = HostSocket::new(socket)?;
            let key = Key { host, guest: port };
            self.insert(key, |token| {
                Connection::requested(key, token, socket, opening)
            })
        });
        if let Err(error) = opened {
            // Nobody may be waiting any more.
            let _ = reply.try_send(Err(error));
        }
    }

    fn cancel(&mut self, whose: impl Fn(u64) -> bool) {
        let tokens: Vec<_> = self
            .connections
            .values()
            .filter(|connection| connection.ticket().is_some_and(&whose))
            .map(|connection| connection.token)
            .collect();
        for token in tokens {
            if let Some(connection) = self.connections.get_mut(&token) {
                connection.cancel();
            }
            self.settle(token);
        }
    }

    /// A port of the host's that is not connected to `guest` yet.
    fn free_port(&mut self, guest: Port) -> Option<Port> {
        // One more than can be taken.
        for _ in 0..=MOST_CONNECTIONS {
            let port = self.next_port;
            self.next_port = if port >= LAST_PORT {
                FIRST_PORT
            } else {
                port.saturating_add(1)
            };
            let host = Port::new(port)?;
            if !self.by_key.contains_key(&Key { host, guest }) {
                return Some(host);
            }
        }
        None
    }

    /// Makes sure that one more connection fits, at the cost of one that only waits for the
    /// guest's farewell.
    fn room(&mut self) -> io::Result<()> {
        if self.connections.len() < MOST_CONNECTIONS {
            return Ok(());
        }
        let spare = self
            .connections
            .values()
            .find(|connection| connection.is_expendable());
        let token = spare.map(|connection| connection.token);
        self.end(
            token.ok_or(io::ErrorKind::QuotaExceeded)?,
            io::ErrorKind::ConnectionReset,
        );
        Ok(())
    }

    fn insert(&mut self, key: Key, make: impl FnOnce(Token) -> Connection) -> io::Result<()> {
        self.next_token = self.next_token.wrapping_add(1);
        let token = Token(self.next_token);
        let connection = make(token);
        if let Some(socket) = connection.socket() {
            self.poller.add(socket.as_fd(), token)?;
        }
        self.by_key.insert(key, token);
        self.connections.insert(token, connection);
        self.settle(token);
        Ok(())
    }

    /// Ends a connection at once and without a word to the guest.
    fn end(&mut self, token: Token, kind: io::ErrorKind) {
        if let Some(connection) = self.connections.get_mut(&token) {
            connection.abort(kind);
            self.settle(token);
        }
    }

    /// Brings poller, speakers and tables in line with what a connection has become. Called after
    /// everything that touches one.
    pub(super) fn settle(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        if let Some(socket) = connection.take_finished_socket() {
            self.poller.remove(socket.as_fd());
        }
        let blocked = connection.is_write_blocked();
        if blocked != connection.write_watched
            && let Some(socket) = connection.socket()
        {
            match self.poller.watch_writes(socket.as_fd(), token, blocked) {
                Ok(()) => connection.write_watched = blocked,
                // Bytes would be stuck for ever. The kernel gives no reason to expect this.
                Err(_) => connection.cancel(),
            }
        }
        if connection.is_gone() {
            self.by_key.remove(&connection.key);
            if connection.queued {
                self.speakers.retain(|&speaker| speaker != token);
            }
            self.connections.remove(&token);
        } else if connection.wants_to_speak() && !connection.queued {
            connection.queued = true;
            self.speakers.push_back(token);
        }
    }

    /// Takes one packet of the guest's.
    pub(super) fn on_packet<B: BitmapSlice>(&mut self, mut packet: chain::Pieces<'_, B>) {
        let Some(header) = packet.take().map(|bytes| Header::decode(&bytes)) else {
            return self.note("chain shorter than a header");
        };
        if header.src_cid != u64::from(self.guest) {
            // There is nobody to answer.
            return self.note("packet from another's address");
        }
        let key = match (Port::new(header.dst_port), Port::new(header.src_port)) {
            (Some(host), Some(guest)) => Key { host, guest },
            _ => return self.refuse(&header, "packet for no port"),
        };
        if header.dst_cid != HOST_CID || header.socket_type != SocketType::STREAM {
            return self.refuse(&header, "packet for another address or type");
        }
        let Some(&token) = self.by_key.get(&key) else {
            return match header.op {
                Operation::REQUEST => self.accept(key, &header),
                _ => self.refuse(&header, "packet for no connection"),
            };
        };
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        if connection.is_left_by_guest() {
            return self.refuse(&header, "packet after RST");
        }
        if let Err(violation) = connection.on_packet(&header, packet) {
            self.end(token, io::ErrorKind::ConnectionReset);
            return self.refuse(&header, violation.0);
        }
        self.settle(token);
    }

    /// Accepts a connection that the guest opens, if anybody listens.
    fn accept(&mut self, key: Key, request: &Header) {
        let accepted = self.room().and_then(|()| {
            let accept = self
                .listeners
                .get_mut(&key.host)
                .ok_or(io::ErrorKind::ConnectionRefused)?;
            let (ours, theirs) = socket::pair()?;
            let socket = HostSocket::new(ours)?;
            accept(theirs).map_err(|Refused| io::ErrorKind::ConnectionRefused)?;
            self.insert(key, |token| {
                Connection::accepted(key, token, socket, request)
            })
        });
        if accepted.is_err() {
            self.refuse(request, "connection that nobody accepts");
        }
    }

    /// Answers `header` with an RST. There is space: packets are only taken while there is.
    fn refuse(&mut self, header: &Header, why: &'static str) {
        self.note(why);
        if let Some(reply) = header.reset_reply()
            && self.replies.len() < MOST_REPLIES
            && !self.replies.contains(&reply)
        {
            self.replies.push_back(reply);
        }
    }

    /// Logs what the guest did wrong: the more often, the more rarely.
    pub(super) fn note(&self, what: &'static str) {
        if let Some(count) = self.violations.note() {
            tracing::debug!(count, "vsock: {what}");
        }
    }

    /// The header of a connection's packet.
    pub(super) fn header_of(&self, key: Key, packet: &super::connection::Outgoing) -> Header {
        Header {
            src_cid: HOST_CID,
            dst_cid: self.guest.into(),
            src_port: key.host.get(),
            dst_port: key.guest.get(),
            len: packet.len,
            socket_type: SocketType::STREAM,
            op: packet.op,
            flags: packet.flags,
            buf_alloc: packet.buf_alloc,
            fwd_cnt: packet.fwd_cnt,
        }
    }
}
