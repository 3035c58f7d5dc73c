//! The devices of our own virtual machines, behind registers in guest memory's address space.
//!
//! | module | role |
//! |---|---|
//! | `bus` | which device an address belongs to |
//! | `pl011` | the console |
//! | `virtio` | the virtio-mmio transport, the disk, the random numbers |
//! | [`super::vsock`] | the streams, over the same transport |
//!
//! Devices know neither the engine nor each other. An engine puts them on a [`Bus`](bus::Bus),
//! passes on the guest's accesses, and gives each an [`InterruptLine`].
//!
//! # Trust
//! Every access and everything in guest memory is hostile. Code that it reaches never panics and
//! never computes unchecked; what one access makes a device do, allocate or log is bounded.
//!
//! # Lock order
//! A transport's state, then its interrupt, then whatever the engine's line takes. A line must not
//! call back into a device.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used
)]

pub(crate) mod bus;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod misbehave;
pub(crate) mod pl011;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the tests use more of it than the fuzz targets")
)]
pub(crate) mod testing;
pub(crate) mod virtio;

/// Guest memory.
pub(crate) type Memory = vm_memory::GuestMemoryMmap;

/// A device's registers. `data` has 1, 2, 4 or 8 bytes and the access lies within the device's
/// window.
pub(crate) trait MmioDevice: Send + Sync {
    /// Fills all of `data`.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Takes a write, or ignores it.
    fn write(&self, offset: u64, data: &[u8]);
}

/// A level-sensitive line into the interrupt controller.
pub(crate) trait InterruptLine: Send + Sync {
    /// Sets the line's level. Devices call it on changes only, one call at a time per line, from
    /// any thread.
    fn set(&self, asserted: bool);
}
