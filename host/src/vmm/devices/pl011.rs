//! An Arm PL011 UART that only transmits: the guest's console.
//!
//! What the guest writes is with the host at once, so the transmit FIFO is always empty and the
//! line never busy. Nothing is ever received. Of the interrupts only the transmit interrupt
//! occurs: it becomes pending when a byte has left, and when the guest unmasks it, because a driver
//! that then waits for the FIFO to run empty would wait for ever.
//!
//! Registers as in the PrimeCell UART (PL011) Technical Reference Manual, chapter 3. The
//! identification registers are those of revision 1, whose FIFO has 16 bytes.

use super::{InterruptLine, MmioDevice};
use crate::vmm::console::Tail;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Length of the register window. The identification registers are at its end.
pub(crate) const WINDOW: u64 = 0x1000;

const DR: u64 = 0x000;
const FR: u64 = 0x018;
const ILPR: u64 = 0x020;
const IBRD: u64 = 0x024;
const FBRD: u64 = 0x028;
const LCR_H: u64 = 0x02c;
const CR: u64 = 0x030;
const IFLS: u64 = 0x034;
const IMSC: u64 = 0x038;
const RIS: u64 = 0x03c;
const MIS: u64 = 0x040;
const ICR: u64 = 0x044;
const DMACR: u64 = 0x048;
/// UARTPeriphID0 to 3 and UARTPCellID0 to 3, one byte each, four bytes apart.
const IDENTIFICATION: u64 = 0xfe0;
const IDENTITY: [u8; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// FR: the transmit FIFO is empty, the receive FIFO is empty.
const TXFE_RXFE: u32 = 1 << 7 | 1 << 4;
/// The transmit interrupt, in IMSC, RIS, MIS and ICR.
const TX: u32 = 1 << 5;

/// Where the console's bytes go.
pub(crate) trait Output: Send + Sync {
    /// Takes `bytes`. Called on a virtual processor's thread, so it must not wait.
    fn write(&self, bytes: &[u8]);
}

impl Output for Tail {
    fn write(&self, bytes: &[u8]) {
        self.push(bytes);
    }
}

/// Registers that hold what was written. Only `imsc` has an effect.
#[derive(Debug, Clone, Copy)]
struct Registers {
    ilpr: u32,
    ibrd: u32,
    fbrd: u32,
    lcr_h: u32,
    cr: u32,
    ifls: u32,
    imsc: u32,
    ris: u32,
    dmacr: u32,
}

/// See the module's documentation.
pub(crate) struct Pl011 {
    output: Arc<dyn Output>,
    line: Arc<dyn InterruptLine>,
    registers: Mutex<Registers>,
}

impl std::fmt::Debug for Pl011 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pl011").field(&*self.registers()).finish()
    }
}

impl Pl011 {
    /// A console that prints to `output`.
    pub(crate) fn new(output: Arc<dyn Output>, line: Arc<dyn InterruptLine>) -> Self {
        let registers = Registers {
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            lcr_h: 0,
            // Receive and transmit enabled, as the manual has it after reset.
            cr: 0x300,
            // Half full, both.
            ifls: 0x12,
            imsc: 0,
            ris: 0,
            dmacr: 0,
        };
        Self {
            output,
            line,
            registers: Mutex::new(registers),
        }
    }

    fn registers(&self) -> MutexGuard<'_, Registers> {
        // Nothing panics while it holds the lock.
        self.registers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, offset: u64) -> u32 {
        let registers = self.registers();
        match offset {
            FR => TXFE_RXFE,
            ILPR => registers.ilpr,
            IBRD => registers.ibrd,
            FBRD => registers.fbrd,
            LCR_H => registers.lcr_h,
            CR => registers.cr,
            IFLS => registers.ifls,
            IMSC => registers.imsc,
            RIS => registers.ris,
            MIS => registers.ris & registers.imsc,
            DMACR => registers.dmacr,
            _ => identification(offset).into(),
        }
    }

    fn set(&self, offset: u64, value: u32) {
        let mut registers = self.registers();
        let before = registers.ris & registers.imsc;
        match offset {
            DR => {
                let [byte, ..] = value.to_le_bytes();
                self.output.write(&[byte]);
                registers.ris |= TX;
            }
            ILPR => registers.ilpr = value & 0xff,
            IBRD => registers.ibrd = value & 0xffff,
            FBRD => registers.fbrd = value & 0x3f,
            LCR_H => registers.lcr_h = value & 0xff,
            CR => registers.cr = value & 0xffff,
            IFLS => registers.ifls = value & 0x3f,
            IMSC => {
                let unmasked = value & !registers.imsc;
                registers.imsc = value & 0x7ff;
                registers.ris |= unmasked & TX;
            }
            ICR => registers.ris &= !value,
            DMACR => registers.dmacr = value & 0x7,
            // Read-only, or not there.
            _ => {}
        }
        let after = registers.ris & registers.imsc;
        if (before == 0) != (after == 0) {
            // Within the lock, so that levels arrive in the order in which they came to be.
            self.line.set(after != 0);
        }
    }
}

fn identification(offset: u64) -> u8 {
    offset
        .checked_sub(IDENTIFICATION)
        .and_then(|offset| usize::try_from(offset / 4).ok())
        .and_then(|index| IDENTITY.get(index).copied())
        .unwrap_or(0)
}

/// Drivers access registers with one, two or four bytes at their first address. Other bytes of a
/// register, and what a longer access covers besides, read as zeroes and are ignored.
impl MmioDevice for Pl011 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset.is_multiple_of(4) {
            let value = self.get(offset).to_le_bytes();
            for (byte, value) in data.iter_mut().zip(value) {
                *byte = value;
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset.is_multiple_of(4) {
            let mut value = [0; 4];
            for (value, byte) in value.iter_mut().zip(data) {
                *value = *byte;
            }
            self.set(offset, u32::from_le_bytes(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Line;
    use super::*;
    use proptest::prelude::*;

    fn uart() -> (Pl011, Arc<Tail>, Arc<Line>) {
        let (tail, line) = (Arc::new(Tail::new(1024, None)), Arc::new(Line::default()));
        (Pl011::new(tail.clone(), line.clone()), tail, line)
    }

    fn read(uart: &Pl011, offset: u64) -> u32 {
        let mut data = [0xff; 4];
        uart.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(uart: &Pl011, offset: u64, value: u32) {
        uart.write(offset, &value.to_le_bytes());
    }

    #[test]
    fn what_is_written_is_printed() {
        let (uart, tail, _) = uart();
        for byte in b"Linux" {
            uart.write(DR, &[*byte]);
        }
        uart.write(DR, &u16::from(b'\n').to_le_bytes());
        write(&uart, DR, 0x100 | u32::from(b'!'));
        assert_eq!(tail.text(), "Linux\n!");
        assert_eq!(read(&uart, FR), 0x90);
        assert_eq!(read(&uart, DR), 0);
    }

    #[test]
    fn drivers_recognise_it() {
        let (uart, ..) = uart();
        let id = |base: u64| {
            (0..4).fold(0, |id, i| {
                id | (read(&uart, base + 4 * i) & 0xff) << (8 * i)
            })
        };
        assert_eq!(id(0xfe0) & 0x000f_ffff, 0x0004_1011);
        assert_eq!(id(0xff0), 0xb105_f00d);
    }

    #[test]
    fn the_transmit_interrupt_comes_when_unmasked_and_goes_when_cleared() {
        let (uart, _, line) = uart();
        assert_eq!(read(&uart, RIS), 0);
        write(&uart, IMSC, TX);
        assert!(line.asserted());
        assert_eq!(read(&uart, MIS), TX);
        write(&uart, ICR, TX);
        assert!(!line.asserted());
        write(&uart, DR, 0);
        assert!(line.asserted());
        write(&uart, IMSC, 0);
        assert!(!line.asserted());
        assert_eq!((read(&uart, RIS), read(&uart, MIS)), (TX, 0));
        write(&uart, IMSC, !TX);
        assert!(!line.asserted());
    }

    #[test]
    fn settings_are_kept() {
        let (uart, ..) = uart();
        assert_eq!(read(&uart, CR), 0x300);
        for (offset, mask) in [
            (ILPR, 0xff),
            (IBRD, 0xffff),
            (FBRD, 0x3f),
            (LCR_H, 0xff),
            (CR, 0xffff),
            (IFLS, 0x3f),
            (IMSC, 0x7ff),
            (DMACR, 7),
        ] {
            write(&uart, offset, u32::MAX);
            assert_eq!(read(&uart, offset), mask, "{offset:#x}");
        }
    }

    proptest! {
        #[test]
        fn the_line_follows_the_masked_status(
            accesses in prop::collection::vec((0..WINDOW, any::<u64>(), 0..4_u32), 0..200)
        ) {
            let (uart, _, line) = uart();
            for (offset, value, size) in accesses {
                let offset = if value & 1 == 0 { offset & 0x7c } else { offset };
                let mut data = value.to_le_bytes();
                let data = data.get_mut(..1 << size).unwrap();
                uart.write(offset, data);
                uart.read(offset, data);
                prop_assert_eq!(line.asserted(), read(&uart, MIS) != 0);
            }
        }
    }
}
