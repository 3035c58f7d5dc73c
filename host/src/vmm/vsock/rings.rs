//! The device's two rings: packets of the guest are taken from one, packets for it put into the
//! other.
//!
//! Every chain that was taken is given back, whatever was in it. Each call does a bounded amount of
//! work; when more is left it says so and expects to be called again.

use super::device::{BUDGET, Device, MOST_REPLIES};
use super::packet::Header;
use super::poll::Poller;
use crate::vmm::devices::virtio::chain::{self, Half, Pieces};
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemory;
use vm_memory::bitmap::BitmapSlice;

/// What [`Device::serve`] leaves to its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Served {
    /// The driver wants an interrupt for the ring to the guest.
    pub(crate) interrupt_rx: bool,
    /// The driver wants an interrupt for the ring from the guest.
    pub(crate) interrupt_tx: bool,
    /// There is more to do; call again without waiting.
    pub(crate) more: bool,
}

/// Why a ring was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Nothing is left to do.
    Idle,
    /// Something else must happen first: a buffer of the guest's, or space for replies.
    Blocked,
    /// The budget is spent.
    Budget,
}

impl<P: Poller> Device<P> {
    /// Moves packets both ways until there is nothing to move or the budget is spent.
    ///
    /// Rings that are not ready, and those of a driver that broke them, are left alone.
    pub(crate) fn serve<M, Q>(&mut self, mem: &M, rx: &mut Q, tx: &mut Q) -> Served
    where
        M: GuestMemory,
        Q: QueueT,
    {
        if self.broken || !rx.ready() || !tx.ready() {
            return Served::default();
        }
        let served = self.serve_both(mem, &mut rx.lock(), &mut tx.lock());
        served.unwrap_or_else(|error| {
            self.broken = true;
            if let Some(count) = self.violations.note() {
                tracing::warn!(count, %error, "vsock: the driver broke a ring; it is left until reset");
            }
            Served::default()
        })
    }

    fn serve_both<M: GuestMemory>(
        &mut self,
        mem: &M,
        rx: &mut Queue,
        tx: &mut Queue,
    ) -> Result<Served, virtio_queue::Error> {
        let mut took = 0;
        let mut gave = 0;
        let more = loop {
            let from_guest = self.serve_tx(mem, tx, &mut took)?;
            let to_guest = self.serve_rx(mem, rx, &mut gave)?;
            if from_guest == Stop::Budget || to_guest == Stop::Budget {
                break true;
            }
            // Packets were left in the ring for want of space for replies; now there is some.
            if from_guest == Stop::Blocked && self.replies.len() < MOST_REPLIES {
                continue;
            }
            break false;
        };
        Ok(Served {
            interrupt_rx: gave > 0 && rx.needs_notification(mem)?,
            interrupt_tx: took > 0 && tx.needs_notification(mem)?,
            more,
        })
    }

    fn serve_tx<M: GuestMemory>(
        &mut self,
        mem: &M,
        ring: &mut Queue,
        took: &mut usize,
    ) -> Result<Stop, virtio_queue::Error> {
        loop {
            ring.disable_notification(mem)?;
            loop {
                if *took >= BUDGET {
                    return Ok(Stop::Budget);
                }
                if self.replies.len() >= MOST_REPLIES {
                    return Ok(Stop::Blocked);
                }
                let Some(chain) = next_chain(mem, ring)? else {
                    break;
                };
                *took = took.saturating_add(1);
                let head = chain.head_index();
                match chain::pieces(mem, chain, Half::Readable) {
                    Ok(packet) => self.on_packet(packet),
                    Err(chain::MalformedChain) => self.note("malformed chain to the host"),
                }
                give_back(mem, ring, head, 0)?;
            }
            if !ring.enable_notification(mem)? {
                return Ok(Stop::Idle);
            }
        }
    }

    fn serve_rx<M: GuestMemory>(
        &mut self,
        mem: &M,
        ring: &mut Queue,
        gave: &mut usize,
    ) -> Result<Stop, virtio_queue::Error> {
        // New buffers are no news while there is nothing to put into them.
        ring.disable_notification(mem)?;
        loop {
            if self.replies.is_empty() && self.speakers.is_empty() {
                return Ok(Stop::Idle);
            }
            if *gave >= BUDGET {
                return Ok(Stop::Budget);
            }
            let Some(chain) = next_chain(mem, ring)? else {
                if ring.enable_notification(mem)? {
                    ring.disable_notification(mem)?;
                    continue;
                }
                return Ok(Stop::Blocked);
            };
            let head = chain.head_index();
            let written = match chain::pieces(mem, chain, Half::Writable) {
                Ok(space) => self.fill(space),
                Err(chain::MalformedChain) => Filled::Unusable,
            };
            match written {
                Filled::Packet(len) => give_back(mem, ring, head, len)?,
                Filled::Unusable => {
                    self.note("malformed chain for the guest");
                    give_back(mem, ring, head, 0)?;
                }
                Filled::Nothing => {
                    // Everybody who wanted to speak had nothing to say after all.
                    ring.go_to_previous_position();
                    return Ok(Stop::Idle);
                }
            }
            *gave = gave.saturating_add(1);
        }
    }

    /// Puts the next packet for the guest into `space`.
    fn fill<B: BitmapSlice>(&mut self, mut space: Pieces<'_, B>) -> Filled {
        let Some(front) = space.split_front(Header::LEN) else {
            return Filled::Unusable;
        };
        let header = match self.replies.pop_front() {
            Some(reply) => reply,
            None => match self.next_packet(&space) {
                Ok(Some(header)) => header,
                Ok(None) => return Filled::Nothing,
                Err(NoRoom) => return Filled::Unusable,
            },
        };
        front.put(&header.encode());
        let len = u32::try_from(Header::LEN)
            .unwrap_or(0)
            .saturating_add(header.len);
        Filled::Packet(len)
    }

    /// One packet of whoever's turn it is. A speaker with more to say goes to the end of the line.
    fn next_packet<B: BitmapSlice>(
        &mut self,
        space: &Pieces<'_, B>,
    ) -> Result<Option<Header>, NoRoom> {
        while let Some(token) = self.speakers.pop_front() {
            let Some(connection) = self.connections.get_mut(&token) else {
                continue;
            };
            connection.queued = false;
            let key = connection.key;
            let packet = connection.produce(space);
            if packet.is_none() && space.len() == 0 && connection.wants_to_speak() {
                connection.queued = true;
                self.speakers.push_front(token);
                return Err(NoRoom);
            }
            self.settle(token);
            if let Some(packet) = packet {
                return Ok(Some(self.header_of(key, &packet)));
            }
        }
        Ok(None)
    }
}

/// Only data is left to be said, and the guest's buffer ends with the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NoRoom;

/// What became of a buffer of the guest's.
enum Filled {
    /// It holds a packet of this length.
    Packet(u32),
    /// It cannot hold one.
    Unusable,
    /// There was no packet.
    Nothing,
}

/// Takes the next chain that the driver offers. A head outside of the table is skipped: there is
/// no way to give it back.
fn next_chain<'m, M: GuestMemory>(
    mem: &'m M,
    ring: &mut Queue,
) -> Result<Option<DescriptorChain<&'m M>>, virtio_queue::Error> {
    // `iter` and not `pop_descriptor_chain`, which logs every mistake of the guest's.
    let size = ring.size();
    let chain = ring.iter(mem)?.find(|chain| chain.head_index() < size);
    Ok(chain)
}

fn give_back<M: GuestMemory>(
    mem: &M,
    ring: &mut Queue,
    head: u16,
    len: u32,
) -> Result<(), virtio_queue::Error> {
    ring.add_used(mem, head, len)
}
