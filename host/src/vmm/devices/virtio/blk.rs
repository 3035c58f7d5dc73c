//! virtio-blk: a file as a read-only disk (virtio 1.2, section 5.2).
//!
//! Requests are served on the thread of the virtual processor that notifies, from the file straight
//! into guest memory. A request that cannot be served gets an error status; a chain that is no
//! request is given back as it is.
//!
//! What one request can cost is bounded by [`MOST_BYTES`], so that a guest gains nothing by pointing
//! many descriptors at the same memory.

use super::chain::{self, Halves, MOST_PIECES, Pieces};
use super::ring::Ring;
use super::{Activation, COMMON_FEATURES, Unserved, VirtioDevice, disk, read_at};
use crate::vmm::rarely::Rarely;
use std::fs::File;
use std::io;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use vm_memory::bitmap::BitmapSlice;

const SECTOR: u64 = 512;
/// Most segments of a request's data: a chain has a header and a status besides.
const SEG_MAX: u32 = 62;
/// Most bytes of a segment.
const SIZE_MAX: u32 = 64 << 10;
/// Most bytes of a request's data.
const MOST_BYTES: usize = 62 * (64 << 10);
const _: () = assert!(SEG_MAX as usize + 2 == MOST_PIECES);
const _: () = assert!(SEG_MAX as usize * SIZE_MAX as usize == MOST_BYTES);

/// Descriptors of the ring.
const RING_SIZE: u16 = 128;
/// Type, reserved, sector.
const HEADER: usize = 16;
/// What GET_ID tells: twenty bytes, padded with zeroes.
const ID: [u8; 20] = *b"ringfence\0\0\0\0\0\0\0\0\0\0\0";

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Blk {
    disk: Disk,
    ring: Option<Ring>,
}

#[derive(Debug)]
struct Disk {
    file: File,
    sectors: u64,
    failures: Rarely,
}

impl Blk {
    /// A disk of all whole sectors of `file`.
    ///
    /// # Errors
    /// When the file's length cannot be had.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let sectors = file.metadata()?.len() / SECTOR;
        Ok(Self {
            disk: Disk {
                file,
                sectors,
                failures: Rarely::new(),
            },
            ring: None,
        })
    }
}

impl VirtioDevice for Blk {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        COMMON_FEATURES
            | 1 << VIRTIO_BLK_F_RO
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_SIZE_MAX
    }

    fn queue_sizes(&self) -> &[u16] {
        &[RING_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let (sectors, size_max, seg_max) = (
            self.disk.sectors.to_le_bytes(),
            SIZE_MAX.to_le_bytes(),
            SEG_MAX.to_le_bytes(),
        );
        // Fields of features that are not offered are zero.
        let space: [&[u8]; 3] = [&sectors, &size_max, &seg_max];
        read_at(&space.concat(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), Unserved> {
        self.ring = Ring::first(activation);
        self.notify(0);
        Ok(())
    }

    fn notify(&mut self, _queue: u32) {
        let disk = &self.disk;
        if let Some(ring) = &mut self.ring {
            ring.serve(|memory, chain| match chain::halves(memory, chain) {
                Ok(halves) => disk.serve(halves).unwrap_or(0),
                Err(chain::MalformedChain) => 0,
            });
        }
    }

    fn reset(&mut self) {
        self.ring = None;
    }
}

/// Why a request failed: its status byte.
struct Failed(u32);

const IOERR: Failed = Failed(VIRTIO_BLK_S_IOERR);

impl Disk {
    /// Serves one request and returns how many bytes it wrote, or `None` when it was no request.
    fn serve<B: BitmapSlice>(&self, request: Halves<'_, B>) -> Option<u32> {
        let Halves {
            mut readable,
            mut writable,
        } = request;
        // The status is the last byte that the device may write, wherever that lies.
        let data = writable.split_front(writable.len().checked_sub(1)?)?;
        let result = match readable.take::<HEADER>() {
            Some(header) => self.perform(&header, &data),
            None => Err(IOERR),
        };
        let (status, written) = match result {
            Ok(written) => (VIRTIO_BLK_S_OK, written.saturating_add(1)),
            Err(Failed(status)) => (status, 0),
        };
        let [status, ..] = status.to_le_bytes();
        writable.put(&[status]);
        Some(u32::try_from(written).unwrap_or(0))
    }

    fn perform<B: BitmapSlice>(
        &self,
        header: &[u8; HEADER],
        data: &Pieces<'_, B>,
    ) -> Result<usize, Failed> {
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = *header;
        match u32::from_le_bytes([t0, t1, t2, t3]) {
            VIRTIO_BLK_T_IN => self.read(u64::from_le_bytes(sector), data),
            VIRTIO_BLK_T_OUT => Err(IOERR),
            VIRTIO_BLK_T_GET_ID => {
                data.put(&ID);
                Ok(data.len().min(ID.len()))
            }
            _ => Err(Failed(VIRTIO_BLK_S_UNSUPP)),
        }
    }

    fn read<B: BitmapSlice>(&self, sector: u64, data: &Pieces<'_, B>) -> Result<usize, Failed> {
        let len = data.len();
        let bytes = u64::try_from(len).map_err(|_| IOERR)?;
        let end = bytes
            .checked_div(SECTOR)
            .and_then(|count| sector.checked_add(count));
        let inside = end.is_some_and(|end| end <= self.sectors);
        if len > MOST_BYTES || !bytes.is_multiple_of(SECTOR) || !inside {
            return Err(IOERR);
        }
        let offset = sector.checked_mul(SECTOR).ok_or(IOERR)?;
        disk::read_exact_at(&self.file, data, offset).map_err(|error| {
            if let Some(count) = self.failures.note() {
                tracing::warn!(count, %error, sector, "virtio-blk: cannot read the disk's file");
            }
            IOERR
        })?;
        Ok(len)
    }
}

#[cfg(test)]
mod tests;
