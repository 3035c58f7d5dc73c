//! A ring that is served on the thread of the virtual processor that notifies.
//!
//! One notification is worth at most a ring's length of chains, whatever other processors put into
//! the ring meanwhile, so nobody keeps a processor's thread busy for ever. Nothing is forgotten
//! either: the chains are taken from the ring, and notifications asked for, *before* the first of
//! them is served. What comes later brings a notification of its own.

use super::{Activation, Interrupt};
use crate::vmm::devices::Memory;
use std::sync::Arc;
use virtio_queue::{DescriptorChain, Error, Queue, QueueOwnedT, QueueT};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Ring {
    memory: Arc<Memory>,
    queue: Queue,
    interrupt: Arc<Interrupt>,
    /// Its indices make no sense; it is left alone.
    broken: bool,
}

impl Ring {
    /// The first ring of a device.
    pub(super) fn first(activation: Activation) -> Option<Self> {
        Some(Self {
            memory: activation.memory,
            queue: activation.queues.into_iter().next()?,
            interrupt: activation.interrupt,
            broken: false,
        })
    }

    /// Serves what is in the ring. `handle` gets each chain and returns how many bytes it wrote to
    /// it.
    pub(super) fn serve(&mut self, handle: impl FnMut(&Memory, DescriptorChain<&Memory>) -> u32) {
        if self.broken || !self.queue.ready() {
            return;
        }
        match self.try_serve(handle) {
            Ok(true) => self.interrupt.used_buffers(),
            Ok(false) => {}
            Err(error) => {
                self.broken = true;
                self.interrupt.needs_reset(&error.to_string());
            }
        }
    }

    /// Whether the driver wants an interrupt.
    fn try_serve(
        &mut self,
        mut handle: impl FnMut(&Memory, DescriptorChain<&Memory>) -> u32,
    ) -> Result<bool, Error> {
        let memory = self.memory.as_ref();
        let size = usize::from(self.queue.size());
        let mut chains = Vec::new();
        loop {
            // None of these was given back yet, so an honest driver has no more than `size`.
            let room = size.saturating_sub(chains.len());
            chains.extend(self.queue.iter(memory)?.take(room));
            if !self.queue.enable_notification(memory)? || chains.len() >= size {
                break;
            }
        }
        let mut any = false;
        for chain in chains {
            let head = chain.head_index();
            // A head outside of the table cannot be given back.
            if head < self.queue.size() {
                let written = handle(memory, chain);
                self.queue.add_used(memory, head, written)?;
                any = true;
            }
        }
        Ok(any && self.queue.needs_notification(memory)?)
    }
}
