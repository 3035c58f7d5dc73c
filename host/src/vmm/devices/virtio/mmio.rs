//! The virtio-mmio transport, version 2 (virtio 1.2, section 4.2.2).
//!
//! # Life of a device
//! ```text
//! 0 ──► ACKNOWLEDGE ──► DRIVER ──► FEATURES_OK ──► DRIVER_OK ──► served
//!                          │            │
//!                  features are taken   queue registers are taken
//! any ──► FAILED, which only a reset ends
//! any ──► 0: the device has come to rest when the write returns
//! ```
//! A write of Status that is none of these is ignored. Registers written at another time are
//! ignored too, as is every access to a register that has not four bytes; they read as zero.
//!
//! Values are kept as wide as the guest wrote them and judged once, when the driver says that it is
//! ready: then the rings must make sense and lie within memory, or else the device needs a reset.
//!
//! # Threads
//! Any virtual processor may access any register at any time. The interrupt's registers have a lock
//! of their own, so that a processor that handles an interrupt does not wait for one whose
//! notification is being served.

use super::{Activation, Interrupt, VirtioDevice};
use crate::vmm::devices::{InterruptLine, Memory, MmioDevice};
use crate::vmm::rarely::Rarely;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use virtio_bindings::virtio_config as bits;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_mmio as registers;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemory, Permissions};

/// Length of the register window.
pub(crate) const WINDOW: u64 = 0x200;

/// Where drivers write the index of a ring to notify; a word.
#[cfg(any(test, feature = "fuzzing", target_os = "linux"))]
pub(crate) const QUEUE_NOTIFY: u64 = 0x50;

/// "virt".
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
/// Nobody's in particular, but not zero, which means "no device" to some drivers.
const VENDOR: u32 = u32::from_le_bytes(*b"ring");

const CONFIG: u64 = 0x100;

const ACKNOWLEDGE: u32 = bits::VIRTIO_CONFIG_S_ACKNOWLEDGE;
const DRIVER: u32 = bits::VIRTIO_CONFIG_S_DRIVER;
const FEATURES_OK: u32 = bits::VIRTIO_CONFIG_S_FEATURES_OK;
const DRIVER_OK: u32 = bits::VIRTIO_CONFIG_S_DRIVER_OK;
const NEEDS_RESET: u32 = bits::VIRTIO_CONFIG_S_NEEDS_RESET;
const FAILED: u32 = bits::VIRTIO_CONFIG_S_FAILED;

const ACKNOWLEDGED: u32 = ACKNOWLEDGE;
const DRIVEN: u32 = ACKNOWLEDGED | DRIVER;
const NEGOTIATED: u32 = DRIVEN | FEATURES_OK;
const RUNNING: u32 = NEGOTIATED | DRIVER_OK;

/// What Status may become, but for reset and FAILED.
const VALID_TRANSITIONS: [(u32, u32); 4] = [
    (0, ACKNOWLEDGED),
    (ACKNOWLEDGED, DRIVEN),
    (DRIVEN, NEGOTIATED),
    (NEGOTIATED, RUNNING),
];

/// A ring's registers, as the guest wrote them.
#[derive(Debug, Clone, Copy, Default)]
struct QueueRegisters {
    size: u32,
    ready: bool,
    descriptors: u64,
    available: u64,
    used: u64,
}

impl QueueRegisters {
    /// The ring, if it makes sense. One that is not ready always does.
    fn to_queue(self, max: u16, event_idx: bool, memory: &Memory) -> Option<Queue> {
        let mut queue = Queue::new(max).ok()?;
        if !self.ready {
            return Some(queue);
        }
        // The size is a power of two and no larger than `max`, or this fails.
        queue.try_set_size(u16::try_from(self.size).ok()?).ok()?;
        queue
            .try_set_desc_table_address(GuestAddress(self.descriptors))
            .ok()?;
        queue
            .try_set_avail_ring_address(GuestAddress(self.available))
            .ok()?;
        queue
            .try_set_used_ring_address(GuestAddress(self.used))
            .ok()?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        // The library takes address 0 for "not set". It logs every ring that is not valid, which a
        // guest can repeat without end, so it only gets to see those that are.
        (self.available != 0 && self.lies_within(memory) && queue.is_valid(memory)).then_some(queue)
    }

    /// Whether all three parts of the ring are memory (virtio 1.2, section 2.7).
    fn lies_within(self, memory: &Memory) -> bool {
        let part = |address, header: u32, entry: u32, access| {
            let len = self
                .size
                .checked_mul(entry)
                .and_then(|len| len.checked_add(header))
                .and_then(|len| usize::try_from(len).ok());
            len.is_some_and(|len| memory.check_range(GuestAddress(address), len, access))
        };
        part(self.descriptors, 0, 16, Permissions::Read)
            && part(self.available, 6, 2, Permissions::Read)
            && part(self.used, 6, 8, Permissions::Write)
    }
}

struct State<D> {
    device: D,
    /// Without NEEDS_RESET, which is the interrupt's.
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    queues: Vec<QueueRegisters>,
    /// The device was activated, and not reset since.
    active: bool,
}

/// See the module's documentation.
pub(crate) struct MmioTransport<D> {
    device_type: u32,
    features: u64,
    queue_sizes: Vec<u16>,
    memory: Arc<Memory>,
    interrupt: Arc<Interrupt>,
    oddities: Rarely,
    state: Mutex<State<D>>,
}

impl<D: VirtioDevice> std::fmt::Debug for MmioTransport<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MmioTransport")
            .field("device_type", &self.device_type)
            .field("status", &self.state().status)
            .field("interrupt", &self.interrupt)
            .finish_non_exhaustive()
    }
}

impl<D: VirtioDevice> MmioTransport<D> {
    /// Puts `device` behind registers. Its driver may place rings and buffers into `memory`.
    pub(crate) fn new(device: D, memory: Arc<Memory>, line: Arc<dyn InterruptLine>) -> Self {
        let queue_sizes = device.queue_sizes().to_vec();
        Self {
            device_type: device.device_type(),
            features: device.features(),
            memory,
            interrupt: Arc::new(Interrupt::new(line)),
            oddities: Rarely::new(),
            state: Mutex::new(State {
                status: 0,
                device_features_sel: 0,
                driver_features_sel: 0,
                driver_features: 0,
                queue_sel: 0,
                queues: vec![QueueRegisters::default(); queue_sizes.len()],
                active: false,
                device,
            }),
            queue_sizes,
        }
    }

    /// What can notify the device in place of writes to [`QUEUE_NOTIFY`] of the ring's index, for
    /// an engine whose kernel catches such writes (KVM's ioeventfd).
    #[cfg(target_os = "linux")]
    pub(crate) fn notifiers(&self) -> std::io::Result<Vec<super::Notifier>> {
        self.state().device.notifiers()
    }

    fn state(&self) -> MutexGuard<'_, State<D>> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, register: u32) -> u32 {
        match register {
            registers::VIRTIO_MMIO_MAGIC_VALUE => return MAGIC,
            registers::VIRTIO_MMIO_VERSION => return VERSION,
            registers::VIRTIO_MMIO_DEVICE_ID => return self.device_type,
            registers::VIRTIO_MMIO_VENDOR_ID => return VENDOR,
            registers::VIRTIO_MMIO_INTERRUPT_STATUS => return self.interrupt.reasons(),
            // No shared memory: its length is -1, and so is its address.
            registers::VIRTIO_MMIO_SHM_LEN_LOW..=registers::VIRTIO_MMIO_SHM_BASE_HIGH => {
                return u32::MAX;
            }
            // The configuration never changes.
            registers::VIRTIO_MMIO_CONFIG_GENERATION => return 0,
            _ => {}
        }
        let state = self.state();
        match register {
            registers::VIRTIO_MMIO_DEVICE_FEATURES => {
                half(self.features, state.device_features_sel)
            }
            registers::VIRTIO_MMIO_QUEUE_NUM_MAX => usize::try_from(state.queue_sel)
                .ok()
                .and_then(|index| self.queue_sizes.get(index))
                .map_or(0, |&size| size.into()),
            registers::VIRTIO_MMIO_QUEUE_READY => {
                state.selected().map_or(0, |queue| u32::from(queue.ready))
            }
            registers::VIRTIO_MMIO_STATUS => self.status(&state),
            // Write-only, or not there.
            _ => 0,
        }
    }

    fn status(&self, state: &State<D>) -> u32 {
        if self.interrupt.is_reset_needed() {
            state.status | NEEDS_RESET
        } else {
            state.status
        }
    }

    fn set(&self, register: u32, value: u32) {
        if register == registers::VIRTIO_MMIO_INTERRUPT_ACK {
            return self.interrupt.acknowledge(value);
        }
        let mut state = self.state();
        match register {
            registers::VIRTIO_MMIO_QUEUE_NOTIFY => self.notify(&mut state, value),
            registers::VIRTIO_MMIO_STATUS => self.set_status(&mut state, value),
            registers::VIRTIO_MMIO_DEVICE_FEATURES_SEL => state.device_features_sel = value,
            registers::VIRTIO_MMIO_DRIVER_FEATURES_SEL => state.driver_features_sel = value,
            registers::VIRTIO_MMIO_QUEUE_SEL => state.queue_sel = value,
            registers::VIRTIO_MMIO_DRIVER_FEATURES if state.status == DRIVEN => {
                let select = state.driver_features_sel;
                set_half(&mut state.driver_features, select, value);
            }
            registers::VIRTIO_MMIO_QUEUE_NUM..=registers::VIRTIO_MMIO_QUEUE_READY
            | registers::VIRTIO_MMIO_QUEUE_DESC_LOW..=registers::VIRTIO_MMIO_QUEUE_USED_HIGH
                if state.status == NEGOTIATED =>
            {
                if let Some(queue) = state.selected_mut() {
                    queue.set(register, value);
                }
            }
            _ => self.note("write to a register that takes none now", register, value),
        }
    }

    fn notify(&self, state: &mut State<D>, queue: u32) {
        let known = usize::try_from(queue).is_ok_and(|index| index < self.queue_sizes.len());
        if state.active && state.status == RUNNING && known {
            state.device.notify(queue);
        }
    }

    fn set_status(&self, state: &mut State<D>, value: u32) {
        if value == 0 {
            return self.reset(state);
        }
        // The driver writes back what it read.
        let to = value & !NEEDS_RESET;
        let from = state.status;
        if to == from {
            return;
        }
        if to == from | FAILED {
            state.status = to;
            return;
        }
        if !VALID_TRANSITIONS.contains(&(from, to)) {
            return self.note("impossible status", from, to);
        }
        match to {
            NEGOTIATED if !self.is_acceptable(state.driver_features) => {
                self.note("unacceptable features", from, to);
            }
            RUNNING => {
                state.status = to;
                self.activate(state);
            }
            _ => state.status = to,
        }
    }

    fn is_acceptable(&self, features: u64) -> bool {
        features & !self.features == 0 && features & 1 << VIRTIO_F_VERSION_1 != 0
    }

    fn activate(&self, state: &mut State<D>) {
        let event_idx = state.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let queues: Option<Vec<_>> = state
            .queues
            .iter()
            .zip(&self.queue_sizes)
            .map(|(queue, &max)| queue.to_queue(max, event_idx, &self.memory))
            .collect();
        let Some(queues) = queues else {
            return self.interrupt.needs_reset("its rings make no sense");
        };
        let activation = Activation {
            memory: Arc::clone(&self.memory),
            queues,
            interrupt: Arc::clone(&self.interrupt),
        };
        state.active = true;
        if let Err(error) = state.device.activate(activation) {
            self.interrupt.needs_reset(error.0);
        }
    }

    fn reset(&self, state: &mut State<D>) {
        // First the device, which must not interrupt any more when the interrupt is reset.
        if std::mem::take(&mut state.active) {
            state.device.reset();
        }
        self.interrupt.reset();
        state.status = 0;
        state.device_features_sel = 0;
        state.driver_features_sel = 0;
        state.driver_features = 0;
        state.queue_sel = 0;
        state.queues.fill(QueueRegisters::default());
    }

    fn note(&self, what: &str, first: u32, second: u32) {
        if let Some(count) = self.oddities.note() {
            let device = self.device_type;
            tracing::debug!(
                count,
                device,
                "virtio-mmio: {what}: {first:#x}, {second:#x}"
            );
        }
    }
}

impl<D> State<D> {
    fn selected(&self) -> Option<&QueueRegisters> {
        self.queues.get(usize::try_from(self.queue_sel).ok()?)
    }

    fn selected_mut(&mut self) -> Option<&mut QueueRegisters> {
        self.queues.get_mut(usize::try_from(self.queue_sel).ok()?)
    }
}

impl QueueRegisters {
    fn set(&mut self, register: u32, value: u32) {
        match register {
            registers::VIRTIO_MMIO_QUEUE_NUM => self.size = value,
            registers::VIRTIO_MMIO_QUEUE_READY => self.ready = value & 1 != 0,
            registers::VIRTIO_MMIO_QUEUE_DESC_LOW => set_half(&mut self.descriptors, 0, value),
            registers::VIRTIO_MMIO_QUEUE_DESC_HIGH => set_half(&mut self.descriptors, 1, value),
            registers::VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_half(&mut self.available, 0, value),
            registers::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_half(&mut self.available, 1, value),
            registers::VIRTIO_MMIO_QUEUE_USED_LOW => set_half(&mut self.used, 0, value),
            registers::VIRTIO_MMIO_QUEUE_USED_HIGH => set_half(&mut self.used, 1, value),
            // Legacy registers between them.
            _ => {}
        }
    }
}

/// The `select`th 32 bits of `value`, zero behind the end.
fn half(value: u64, select: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    match select {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

/// Replaces the `select`th 32 bits of `value`, nothing behind the end.
fn set_half(value: &mut u64, select: u32, new: u32) {
    let (low, high) = (half(*value, 0), half(*value, 1));
    let (low, high) = match select {
        0 => (new, high),
        1 => (low, new),
        _ => return,
    };
    *value = u64::from(high) << 32 | u64::from(low);
}

/// The register at `offset`, if it may be accessed with `len` bytes.
fn register(offset: u64, len: usize) -> Option<u32> {
    let register = u32::try_from(offset).ok()?;
    (len == 4 && register.is_multiple_of(4)).then_some(register)
}

impl<D: VirtioDevice> MmioDevice for MmioTransport<D> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(CONFIG) {
            self.state().device.read_config(offset, data);
        } else if let Some(register) = register(offset, data.len()) {
            for (byte, value) in data.iter_mut().zip(self.get(register).to_le_bytes()) {
                *byte = value;
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        // No device here has a configuration that its driver may write.
        if offset < CONFIG
            && let Some(register) = register(offset, data.len())
            && let Ok(value) = data.try_into()
        {
            self.set(register, u32::from_le_bytes(value));
        }
    }
}

#[cfg(test)]
mod tests;
