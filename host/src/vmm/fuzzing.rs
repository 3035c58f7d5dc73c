//! What the fuzz targets call: one function per target, total for any bytes.
//!
//! The bytes are decisions of a guest that misbehaves and, where there is one, of a host program. A
//! panic is the finding. The property tests of the modules call the same code.

#![expect(missing_docs, reason = "the names are those of the targets")]

use super::{board, devices, hvf, vsock};

pub fn virtio_mmio(bytes: &[u8]) {
    devices::misbehave::transport(bytes);
}

pub fn virtio_blk(bytes: &[u8]) {
    devices::misbehave::disk(bytes);
}

pub fn virtio_rng(bytes: &[u8]) {
    devices::misbehave::random_numbers(bytes);
}

pub fn virtio_vsock(bytes: &[u8]) {
    devices::misbehave::streams(bytes);
}

pub fn vsock(bytes: &[u8]) {
    vsock::misbehave::guest_and_host(bytes);
}

pub fn hvf_exits(bytes: &[u8]) {
    hvf::misbehave::exits(bytes);
}

pub fn kernel_image(bytes: &[u8]) {
    board::misbehave::kernel_image(bytes);
}

pub fn device_tree(bytes: &[u8]) {
    board::misbehave::device_tree(bytes);
}
