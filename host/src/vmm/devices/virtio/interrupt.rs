//! A virtio device's interrupt: two reasons, one level-sensitive line.

use crate::vmm::devices::InterruptLine;
use crate::vmm::rarely::Rarely;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};

#[derive(Debug, Default)]
struct State {
    /// InterruptStatus. The line is asserted while this is not zero.
    reasons: u32,
    needs_reset: bool,
}

/// What a device tells its driver. May be used from any thread.
///
/// The line is set under the lock that guards the reasons, so that no order of device threads and
/// virtual processors leaves it at a level that does not match them.
pub(crate) struct Interrupt {
    state: Mutex<State>,
    line: Arc<dyn InterruptLine>,
    oddities: Rarely,
}

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Interrupt").field(&*self.state()).finish()
    }
}

impl Interrupt {
    pub(crate) fn new(line: Arc<dyn InterruptLine>) -> Self {
        Self {
            state: Mutex::default(),
            line,
            oddities: Rarely::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device has put buffers into a used ring.
    pub(crate) fn used_buffers(&self) {
        self.change(|state| state.reasons |= VIRTIO_MMIO_INT_VRING);
    }

    /// The device cannot go on until its driver resets it.
    pub(crate) fn needs_reset(&self, why: &str) {
        if let Some(count) = self.oddities.note() {
            tracing::debug!(count, "virtio: the driver has to reset its device: {why}");
        }
        self.change(|state| {
            state.needs_reset = true;
            state.reasons |= VIRTIO_MMIO_INT_CONFIG;
        });
    }

    /// The driver has seen these reasons.
    pub(super) fn acknowledge(&self, reasons: u32) {
        self.change(|state| state.reasons &= !reasons);
    }

    /// As if nothing had ever happened. The device must have come to rest before.
    pub(super) fn reset(&self) {
        self.change(|state| *state = State::default());
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        let before = state.reasons;
        change(&mut state);
        if (before == 0) != (state.reasons == 0) {
            self.line.set(state.reasons != 0);
        }
    }

    pub(super) fn reasons(&self) -> u32 {
        self.state().reasons
    }

    pub(super) fn is_reset_needed(&self) -> bool {
        self.state().needs_reset
    }
}
