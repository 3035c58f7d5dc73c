//! thin
use std::ops::Range;
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    cpus: u8,
    memory: u64,
}
pub(crate) const RAM: u64 = 0x8000_0000;
impl Layout {
    pub(crate) fn new(memory: u64, cpus: u8) -> Self {
        Self { cpus, memory }
    }
    pub(crate) fn gic_distributor(&self) -> Range<u64> {
        0x0800_0000..0x0801_0000
    }
    pub(crate) fn gic_redistributors(&self) -> Range<u64> {
        0x080a_0000..0x080a_0000 + 0x2_0000 * u64::from(self.cpus)
    }
    pub(crate) fn cpus(&self) -> u8 {
        self.cpus
    }
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }
    pub(crate) fn interrupts(&self) -> u32 {
        96
    }
    pub(crate) fn address_bits(&self) -> u32 {
        36
    }
    pub(crate) fn uart(&self) -> (u64, u32) {
        (0x0900_0000, 33)
    }
    pub(crate) fn virtio(&self, slot: u32) -> (u64, u32) {
        (0x0a00_0000 + u64::from(slot) * 0x1000, 48 + slot)
    }
}
