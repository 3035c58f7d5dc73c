//! virtio devices and their transport over memory-mapped registers (virtio 1.2).
//!
//! | module | role |
//! |---|---|
//! | `mmio` | registers, negotiation, the life of a device |
//! | `interrupt` | from a device to its driver |
//! | `chain` | descriptor chains as the bytes they are |
//! | `ring` | a ring that is served on the thread that notifies |
//! | `blk`, `rng` | the disk and the random numbers |
//!
//! A device sees nothing of its driver until [`VirtioDevice::activate`], and nothing after
//! [`VirtioDevice::reset`].

pub(crate) mod blk;
pub(in crate::vmm) mod chain;
mod disk;
mod interrupt;
pub(crate) mod mmio;
mod ring;
pub(crate) mod rng;

pub(crate) use interrupt::Interrupt;

use super::Memory;
use std::sync::Arc;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::Queue;

/// What every device here offers besides its own features.
pub(crate) const COMMON_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// What a device gets from its driver.
#[derive(Debug)]
pub(crate) struct Activation {
    /// Guest memory.
    pub(crate) memory: Arc<Memory>,
    /// As many rings as the device has. The driver need not have set up all: `ready` tells. Those
    /// that are ready lie within memory.
    pub(crate) queues: Vec<Queue>,
    /// The way back.
    pub(crate) interrupt: Arc<Interrupt>,
}

/// The device cannot serve its driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unserved(pub(crate) &'static str);

/// A ring whose notifications somebody else may deliver, in place of writes to QueueNotify.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(crate) struct Notifier {
    /// Index of the ring, which is the value that the driver writes.
    pub(crate) queue: u32,
    /// Signalled, it wakes the device.
    pub(crate) event: vmm_sys_util::eventfd::EventFd,
}

/// A virtio device without its transport.
///
/// The transport calls one method at a time. Devices either serve their rings within
/// [`notify`](Self::notify), on the thread of the virtual processor, or have a thread of their own
/// that `notify` wakes.
pub(crate) trait VirtioDevice: Send {
    /// The device's number (virtio 1.2, section 5).
    fn device_type(&self) -> u32;

    /// Feature bits that it offers, [`COMMON_FEATURES`] included.
    fn features(&self) -> u64;

    /// Most descriptors of each ring: powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// Reads the configuration space, which never changes. `data` is zeroed; what lies behind the
    /// end stays so.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// The driver is ready: from here on the rings may be served, and what is in them already was
    /// perhaps not announced.
    fn activate(&mut self, activation: Activation) -> Result<(), Unserved>;

    /// The driver has put something into a ring, perhaps. Called between `activate` and `reset`.
    fn notify(&mut self, queue: u32);

    /// Back to where the device was before `activate`. When this returns the device no longer
    /// touches guest memory and no longer interrupts.
    fn reset(&mut self);

    /// What can notify the device besides [`notify`](Self::notify).
    #[cfg(target_os = "linux")]
    fn notifiers(&self) -> std::io::Result<Vec<Notifier>> {
        Ok(Vec::new())
    }
}

/// Copies from a configuration space.
pub(crate) fn read_at(space: &[u8], offset: u64, data: &mut [u8]) {
    let skip = usize::try_from(offset).unwrap_or(usize::MAX);
    for (byte, value) in data.iter_mut().zip(space.iter().skip(skip)) {
        *byte = *value;
    }
}
