//! virtio-rng: the guest's entropy comes from the host's kernel.

use super::chain::{self, Half};
use super::ring::Ring;
use super::{Activation, COMMON_FEATURES, Unserved, VirtioDevice};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use vm_memory::bitmap::BitmapSlice;

/// A request gets no more than this; its driver asks again.
const MOST_BYTES: usize = 4096;

/// Random bytes made in one go.
const BLOCK: usize = 256;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Rng {
    ring: Option<Ring>,
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        COMMON_FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16]
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), Unserved> {
        self.ring = Ring::first(activation);
        self.notify(0);
        Ok(())
    }

    fn notify(&mut self, _queue: u32) {
        if let Some(ring) = &mut self.ring {
            ring.serve(
                |memory, chain| match chain::pieces(memory, chain, Half::Writable) {
                    Ok(space) => fill(&space),
                    Err(chain::MalformedChain) => 0,
                },
            );
        }
    }

    fn reset(&mut self) {
        self.ring = None;
    }
}

/// Fills `space` and returns how much of it.
fn fill<B: BitmapSlice>(space: &chain::Pieces<'_, B>) -> u32 {
    let mut filled = 0_u32;
    for slice in space.first(MOST_BYTES).iter() {
        let mut rest = slice.clone();
        while !rest.is_empty() {
            let mut block = [0; BLOCK];
            let len = rest.len().min(BLOCK);
            let Some(bytes) = block.get_mut(..len) else {
                return filled;
            };
            if getrandom::fill(bytes).is_err() {
                return filled;
            }
            rest.copy_from(bytes);
            filled = filled.saturating_add(u32::try_from(len).unwrap_or(0));
            match rest.offset(len) {
                Ok(tail) => rest = tail,
                Err(_) => return filled,
            }
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmm::devices::testing::{BASE, BUFFERS, Driver, MEMORY};

    #[test]
    fn buffers_are_filled() {
        let mut driver = Driver::started(Rng::default());
        for (buffers, expected) in [
            (vec![(BUFFERS, 64, true)], 64),
            (vec![(BUFFERS, 300, true), (BUFFERS + 300, 1, true)], 301),
            (vec![(BUFFERS, 1 << 20, true)], 4096),
            (vec![(BUFFERS, 4095, true), (BUFFERS + 4095, 9, true)], 4096),
            (vec![(BUFFERS, 64, false)], 0),
            (vec![(BUFFERS, 0, true)], 0),
            (vec![(BASE + MEMORY - 8, 16, true)], 0),
        ] {
            driver.put(BUFFERS, &[0; 5000]);
            let head = driver.offer(0, &buffers);
            driver.notify(0);
            driver.line.wait();
            assert_eq!(driver.interrupted(), 1);
            assert_eq!(driver.take(0), Some((head.into(), expected)));
            let bytes = driver.bytes(BUFFERS, 5000);
            let (random, rest) = bytes.split_at(usize::try_from(expected).unwrap());
            assert!(rest.iter().all(|&byte| byte == 0));
            for window in random.windows(32) {
                assert!(window.iter().any(|&byte| byte != 0));
            }
        }
    }
}
