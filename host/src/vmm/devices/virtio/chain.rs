//! Descriptor chains as the bytes they are.
//!
//! A chain comes from the guest's memory, which the guest writes while it is being read: addresses,
//! lengths and order mean nothing until they were checked, and what was read once is not read
//! again. How a driver cuts a message into descriptors is its own affair (virtio 1.2, section
//! 2.7.4), so a header may be spread over several.

use std::collections::VecDeque;
use virtio_queue::DescriptorChain;
use virtio_queue::desc::split::Descriptor;
use vm_memory::bitmap::{BS, BitmapSlice, WithBitmapSlice};
use vm_memory::{GuestMemory, Permissions, VolatileSlice};

/// Most descriptors, and most pieces of memory, that one message may lie in: for vsock Linux uses
/// two for small packets and one per page plus one for large ones, and disks tell the driver. A
/// chain of more is malformed.
pub(in crate::vmm) const MOST_PIECES: usize = 64;

/// The chain holds no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vmm) struct MalformedChain;

/// Which half of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vmm) enum Half {
    /// What the driver wrote.
    Readable,
    /// What the device is to fill.
    Writable,
}

/// Pieces of guest memory that are one half of a message, or a part of it.
#[derive(Debug)]
pub(in crate::vmm) struct Pieces<'m, B> {
    slices: VecDeque<VolatileSlice<'m, B>>,
}

/// The pieces that one half of `chain` names, in order. Descriptors of the other half count
/// towards the limit only.
pub(in crate::vmm) fn pieces<'m, M: GuestMemory>(
    mem: &'m M,
    chain: DescriptorChain<&'m M>,
    half: Half,
) -> Result<Pieces<'m, BS<'m, M::Bitmap>>, MalformedChain> {
    let mut pieces = Pieces::none();
    for descriptor in bounded(chain) {
        let descriptor = descriptor?;
        if Half::of(descriptor) == half {
            pieces.push(mem, descriptor, half)?;
        }
    }
    Ok(pieces)
}

/// What the driver wrote, and what the device is to fill.
pub(in crate::vmm) struct Halves<'m, B> {
    pub(in crate::vmm) readable: Pieces<'m, B>,
    pub(in crate::vmm) writable: Pieces<'m, B>,
}

/// Both halves of `chain`.
pub(in crate::vmm) fn halves<'m, M: GuestMemory>(
    mem: &'m M,
    chain: DescriptorChain<&'m M>,
) -> Result<Halves<'m, BS<'m, M::Bitmap>>, MalformedChain> {
    let (mut readable, mut writable) = (Pieces::none(), Pieces::none());
    for descriptor in bounded(chain) {
        let descriptor = descriptor?;
        match Half::of(descriptor) {
            Half::Readable => readable.push(mem, descriptor, Half::Readable)?,
            Half::Writable => writable.push(mem, descriptor, Half::Writable)?,
        }
    }
    Ok(Halves { readable, writable })
}

/// The descriptors of `chain`, and an error in place of one too many.
fn bounded<M: GuestMemory>(
    chain: DescriptorChain<&M>,
) -> impl Iterator<Item = Result<Descriptor, MalformedChain>> {
    let too_many = MOST_PIECES.saturating_add(1);
    chain.take(too_many).enumerate().map(|(index, descriptor)| {
        if index < MOST_PIECES {
            Ok(descriptor)
        } else {
            Err(MalformedChain)
        }
    })
}

impl Half {
    fn of(descriptor: Descriptor) -> Self {
        if descriptor.is_write_only() {
            Self::Writable
        } else {
            Self::Readable
        }
    }
}

impl<'m, B: BitmapSlice> Pieces<'m, B> {
    fn none() -> Self {
        Self {
            slices: VecDeque::new(),
        }
    }

    fn push<M>(
        &mut self,
        mem: &'m M,
        descriptor: Descriptor,
        half: Half,
    ) -> Result<(), MalformedChain>
    where
        M: GuestMemory,
        M::Bitmap: WithBitmapSlice<'m, S = B>,
    {
        let access = match half {
            Half::Readable => Permissions::Read,
            Half::Writable => Permissions::Write,
        };
        let len = usize::try_from(descriptor.len()).map_err(|_| MalformedChain)?;
        let parts = mem
            .get_slices(descriptor.addr(), len, access)
            .map_err(|_| MalformedChain)?;
        for part in parts {
            if self.slices.len() == MOST_PIECES {
                return Err(MalformedChain);
            }
            self.slices.push_back(part.map_err(|_| MalformedChain)?);
        }
        Ok(())
    }

    pub(in crate::vmm) fn len(&self) -> usize {
        self.slices
            .iter()
            .fold(0, |sum, slice| sum.saturating_add(slice.len()))
    }

    pub(in crate::vmm) fn iter(&self) -> impl Iterator<Item = &VolatileSlice<'m, B>> {
        self.slices.iter()
    }

    /// Splits the first `at` bytes off; `None` when there are fewer.
    pub(in crate::vmm) fn split_front(&mut self, at: usize) -> Option<Self> {
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
    pub(in crate::vmm) fn first(&self, at: usize) -> Self {
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

    /// Reads `N` bytes at the front and goes behind them; `None` when there are fewer.
    pub(in crate::vmm) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let front = self.split_front(N)?;
        let mut bytes = [0; N];
        let mut rest = bytes.as_mut_slice();
        for slice in front.iter() {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut_checked(slice.len())?;
            slice.copy_to(head);
            rest = tail;
        }
        Some(bytes)
    }

    /// Writes `bytes` over the front of these pieces, as far as they reach.
    pub(in crate::vmm) fn put(&self, bytes: &[u8]) {
        let mut rest = bytes;
        for slice in self.iter() {
            let Some((head, tail)) = rest.split_at_checked(slice.len().min(rest.len())) else {
                return;
            };
            slice.copy_from(head);
            rest = tail;
        }
    }

    /// Copies everything to the end of `queue`.
    pub(in crate::vmm) fn append_to(&self, queue: &mut VecDeque<u8>) {
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
