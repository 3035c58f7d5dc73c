//! Descriptor chains as the bytes they are.
//!
//! A chain comes from the guest's memory, which the guest writes while it is being read: addresses,
//! lengths and order mean nothing until they were checked, and what was read once is not read
//! again. How a driver cuts a packet into descriptors is its own affair (virtio 1.2, section
//! 2.7.4), so a header may be spread over several.

use super::packet::Header;
use std::collections::VecDeque;
use virtio_queue::DescriptorChain;
use vm_memory::bitmap::{BS, BitmapSlice};
use vm_memory::{GuestMemory, Permissions, VolatileSlice};

/// Most descriptors, and most pieces of memory, that one packet may lie in. Linux uses two for
/// small packets and one per page plus one for large ones; a chain of more is no packet.
pub(super) const MOST_PIECES: usize = 64;

/// The chain holds no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MalformedChain;

/// Which half of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    /// What the driver wrote.
    Readable,
    /// What the device is to fill.
    Writable,
}

/// Pieces of guest memory that are one packet, or the rest of one.
#[derive(Debug)]
pub(super) struct Pieces<'m, B> {
    slices: VecDeque<VolatileSlice<'m, B>>,
}

/// The pieces that one half of `chain` names, in order. Descriptors of the other half count
/// towards the limit only.
pub(super) fn pieces<'m, M: GuestMemory>(
    mem: &'m M,
    chain: DescriptorChain<&'m M>,
    half: Half,
) -> Result<Pieces<'m, BS<'m, M::Bitmap>>, MalformedChain> {
    let mut slices = VecDeque::new();
    let mut descriptors = 0_usize;
    for descriptor in chain {
        descriptors = descriptors.saturating_add(1);
        if descriptors > MOST_PIECES {
            return Err(MalformedChain);
        }
        let (writable, access) = match half {
            Half::Readable => (false, Permissions::Read),
            Half::Writable => (true, Permissions::Write),
        };
        if descriptor.is_write_only() != writable {
            continue;
        }
        let len = usize::try_from(descriptor.len()).map_err(|_| MalformedChain)?;
        let parts = mem
            .get_slices(descriptor.addr(), len, access)
            .map_err(|_| MalformedChain)?;
        for part in parts {
            if slices.len() == MOST_PIECES {
                return Err(MalformedChain);
            }
            slices.push_back(part.map_err(|_| MalformedChain)?);
        }
    }
    Ok(Pieces { slices })
}

impl<'m, B: BitmapSlice> Pieces<'m, B> {
    pub(super) fn len(&self) -> usize {
        self.slices
            .iter()
            .fold(0, |sum, slice| sum.saturating_add(slice.len()))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &VolatileSlice<'m, B>> {
        self.slices.iter()
    }

    /// Splits the first `at` bytes off; `None` when there are fewer.
    pub(super) fn split_front(&mut self, at: usize) -> Option<Self> {
        let mut front = VecDeque::new();
        let mut wanted = at;
        while wanted > 0 {
            let slice = self.slices.pop_front()?;
            if slice.len() > wanted {
                let (head, tail) = slice.split_at(wanted).ok()?;
                self.slices.push_front(tail);
                front.push_back(head);
                wanted = 0;
            } else {
                wanted = wanted.saturating_sub(slice.len());
                front.push_back(slice);
            }
        }
        Some(Self { slices: front })
    }

    /// The first `at` bytes, or all if there are fewer.
    pub(super) fn first(&self, at: usize) -> Self {
        let mut slices = VecDeque::with_capacity(self.slices.len());
        let mut wanted = at;
        for slice in &self.slices {
            if wanted == 0 {
                break;
            }
            let len = slice.len().min(wanted);
            let Ok(piece) = slice.subslice(0, len) else {
                break;
            };
            slices.push_back(piece);
            wanted = wanted.saturating_sub(len);
        }
        Self { slices }
    }

    /// Reads the header at the front and goes behind it; `None` when there is less than a header.
    pub(super) fn take_header(&mut self) -> Option<Header> {
        let front = self.split_front(Header::LEN)?;
        let mut bytes = [0; Header::LEN];
        let mut rest = bytes.as_mut_slice();
        for slice in front.iter() {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut_checked(slice.len())?;
            slice.copy_to(head);
            rest = tail;
        }
        Some(Header::decode(&bytes))
    }

    /// Writes `header` over these pieces, which are [`Header::LEN`] long.
    pub(super) fn put_header(&self, header: &Header) {
        let bytes = header.encode();
        let mut rest = bytes.as_slice();
        for slice in self.iter() {
            let Some((head, tail)) = rest.split_at_checked(slice.len().min(rest.len())) else {
                return;
            };
            slice.copy_from(head);
            rest = tail;
        }
    }

    /// Copies everything to the end of `queue`.
    pub(super) fn append_to(&self, queue: &mut VecDeque<u8>) {
        let mut bounce = [0; 4096];
        for slice in self.iter() {
            let mut rest = slice.clone();
            while !rest.is_empty() {
                let copied = rest.copy_to(bounce.as_mut_slice());
                queue.extend(bounce.get(..copied).unwrap_or_default());
                match rest.offset(copied) {
                    Ok(tail) if copied > 0 => rest = tail,
                    _ => break,
                }
            }
        }
    }
}
