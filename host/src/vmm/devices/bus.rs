//! Which device answers at which address.
//!
//! What lies between the devices, across a device's edge, or has a length that no load or store
//! has reads as zeroes and ignores writes.

use super::MmioDevice;
use crate::vmm::rarely::Rarely;
use std::sync::Arc;

/// A window that cannot be put on the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BusError {
    /// Nothing could ever be accessed.
    #[error("the window at {base:#x} is empty")]
    Empty {
        /// Its first address.
        base: u64,
    },
    /// It does not end within the address space.
    #[error("the window at {base:#x} of {size:#x} bytes ends behind the last address")]
    Overflow {
        /// Its first address.
        base: u64,
        /// Its length.
        size: u64,
    },
    /// Part of it belongs to another device.
    #[error("the window at {base:#x} of {size:#x} bytes overlaps the one at {other:#x}")]
    Overlap {
        /// Its first address.
        base: u64,
        /// Its length.
        size: u64,
        /// First address of the window that was there before.
        other: u64,
    },
}

struct Window {
    name: &'static str,
    base: u64,
    last: u64,
    device: Arc<dyn MmioDevice>,
}

/// The devices of a machine by their addresses.
#[derive(Default)]
pub(crate) struct Bus {
    /// Sorted by address, without overlaps.
    windows: Vec<Window>,
    oddities: Rarely,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let windows = self.windows.iter().map(|window| window.base..=window.last);
        f.debug_list().entries(windows).finish()
    }
}

impl Bus {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Puts `device` at the `size` bytes from `base`.
    pub(crate) fn insert(
        &mut self,
        name: &'static str,
        base: u64,
        size: u64,
        device: Arc<dyn MmioDevice>,
    ) -> Result<(), BusError> {
        let beyond_first = size.checked_sub(1).ok_or(BusError::Empty { base })?;
        let last = base
            .checked_add(beyond_first)
            .ok_or(BusError::Overflow { base, size })?;
        let at = self.windows.partition_point(|window| window.last < base);
        if let Some(other) = self.windows.get(at).filter(|window| window.base <= last) {
            let other = other.base;
            return Err(BusError::Overlap { base, size, other });
        }
        let window = Window {
            name,
            base,
            last,
            device,
        };
        self.windows.insert(at, window);
        Ok(())
    }

    /// Reads from the device at `address`; zeroes where there is none.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((device, offset)) => device.read(offset, data),
            None => {
                data.fill(0);
                self.note("read", address, data.len());
            }
        }
    }

    /// Writes to the device at `address`; nothing happens where there is none.
    pub(crate) fn write(&self, address: u64, data: &[u8]) {
        match self.find(address, data.len()) {
            Some((device, offset)) => device.write(offset, data),
            None => self.note("write", address, data.len()),
        }
    }

    /// The name of the device at `address`; empty where there is none.
    pub(crate) fn name(&self, address: u64) -> &'static str {
        let at = self.windows.partition_point(|window| window.last < address);
        let window = self.windows.get(at);
        window
            .filter(|window| window.base <= address)
            .map_or("", |window| window.name)
    }

    /// The device all `len` bytes from `address` belong to, and the offset in its window.
    fn find(&self, address: u64, len: usize) -> Option<(&dyn MmioDevice, u64)> {
        let beyond_first = match len {
            1 => 0,
            2 => 1,
            4 => 3,
            8 => 7,
            _ => return None,
        };
        let last = address.checked_add(beyond_first)?;
        let at = self.windows.partition_point(|window| window.last < last);
        let window = self.windows.get(at)?;
        let offset = address.checked_sub(window.base)?;
        Some((window.device.as_ref(), offset))
    }

    fn note(&self, what: &str, address: u64, len: usize) {
        if let Some(count) = self.oddities.note() {
            tracing::debug!(
                count,
                "bus: {what} of {len} bytes at {address:#x}, where nothing is"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Remembers writes, answers reads with the offset.
    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl MmioDevice for Recorder {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(u8::try_from(offset).unwrap());
        }

        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    fn device() -> Arc<Recorder> {
        Arc::default()
    }

    #[test]
    fn windows_do_not_overlap() {
        let mut bus = Bus::new();
        bus.insert("", 0x1000, 0x100, device()).unwrap();
        bus.insert("", 0x1200, 0x100, device()).unwrap();
        for (base, size) in [
            (0x1000, 0x100),
            (0xfff, 2),
            (0x10ff, 1),
            (0x800, 0x2000),
            (0x1080, 0x10),
            (0x10ff, 0x102),
            (0x11ff, 2),
        ] {
            let error = bus.insert("", base, size, device()).unwrap_err();
            assert!(matches!(error, BusError::Overlap { .. }), "{base:#x}");
        }
        bus.insert("", 0x1100, 0x100, device()).unwrap();
        bus.insert("", u64::MAX, 1, device()).unwrap();
        let error = bus.insert("", 0, 0, device()).unwrap_err();
        assert_eq!(error, BusError::Empty { base: 0 });
        let error = bus.insert("", u64::MAX, 2, device()).unwrap_err();
        assert!(matches!(error, BusError::Overflow { .. }));
    }

    #[test]
    fn accesses_reach_their_device_and_no_other() {
        let mut bus = Bus::new();
        let (first, second) = (device(), device());
        bus.insert("", 0x2000, 0x10, second.clone()).unwrap();
        bus.insert("", 0x1000, 0x10, first.clone()).unwrap();
        bus.write(0x1000, &[1]);
        bus.write(0x100c, &[2; 4]);
        bus.write(0x2008, &[3; 8]);
        // Across an edge, beside, and of lengths that no instruction has.
        bus.write(0x100d, &[9; 4]);
        bus.write(0xfff, &[9; 2]);
        bus.write(0x1010, &[9]);
        bus.write(0x1000, &[9; 3]);
        bus.write(0x1000, &[]);
        bus.write(0x1000, &[9; 16]);
        bus.write(u64::MAX, &[9; 8]);
        let writes = first.0.lock().unwrap();
        assert_eq!(*writes, [(0, vec![1]), (0xc, vec![2; 4])]);
        assert_eq!(*second.0.lock().unwrap(), [(8, vec![3; 8])]);

        let mut data = [0xff; 4];
        bus.read(0x2004, &mut data);
        assert_eq!(data, [4; 4]);
        for address in [0, 0x100d, 0x1ffe, 0x2010, u64::MAX] {
            let mut data = [0xff; 4];
            bus.read(address, &mut data);
            assert_eq!(data, [0; 4], "{address:#x}");
        }
        let mut data = [0xff; 5];
        bus.read(0x2000, &mut data);
        assert_eq!(data, [0; 5]);
    }
}
