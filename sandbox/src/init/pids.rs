//! Sets of process numbers, without an allocator.

#![expect(unsafe_code, reason = "memory of its own")]
#![deny(clippy::indexing_slicing, clippy::panic)]

use crate::sys::{self, signed};

/// One more than the largest process number of a 64-bit kernel.
pub(super) const PIDS: usize = 4 << 20;

/// Fresh memory of integers, all zero. It is the caller's address space, so it is given back.
pub(super) struct Memory<T: 'static>(pub(super) &'static mut [T]);

impl<T: From<u32>> Memory<T> {
    pub(super) fn new(count: usize) -> Option<Self> {
        let bytes = count.checked_mul(size_of::<T>())?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let args = [0, bytes, signed(protection), signed(flags), signed(-1), 0];
        // SAFETY: asks for fresh memory of its own.
        let start = unsafe { sys::call(libc::SYS_mmap, args) }.ok()? as *mut T;
        if start.is_null() {
            return None;
        }
        // SAFETY: the mapping is page-aligned, zeroed, `bytes` long and this structure's alone; what
        // a `u32` can become is an integer, of which zeros are one.
        Some(Self(unsafe {
            std::slice::from_raw_parts_mut(start, count)
        }))
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        let args = [self.0.as_ptr() as usize, size_of_val(self.0)];
        // SAFETY: the mapping is this structure's own, and nobody can use it any more.
        let _ = unsafe { sys::call(libc::SYS_munmap, args) };
    }
}

/// A set of process numbers.
pub(super) struct Pids {
    words: Memory<u64>,
    /// No number at or above this is in the set.
    end: usize,
}

impl Pids {
    pub(super) fn new() -> Option<Self> {
        let words = Memory::new(PIDS / 64)?;
        Some(Self { words, end: 0 })
    }

    pub(super) fn insert(&mut self, pid: i32) -> bool {
        let Ok(pid) = usize::try_from(pid) else {
            return false;
        };
        let Some(word) = self.words.0.get_mut(pid / 64) else {
            return false;
        };
        *word |= 1 << (pid % 64);
        self.end = self.end.max(pid + 1);
        true
    }

    pub(super) fn has(&self, pid: i32) -> bool {
        usize::try_from(pid)
            .ok()
            .and_then(|pid| {
                self.words
                    .0
                    .get(pid / 64)
                    .map(|word| word >> (pid % 64) & 1 == 1)
            })
            .unwrap_or(false)
    }

    pub(super) fn used(&self) -> &[u64] {
        self.words
            .0
            .get(..self.end.div_ceil(64))
            .unwrap_or_default()
    }

    pub(super) fn clear(&mut self) {
        let used = self.end.div_ceil(64);
        self.words.0.get_mut(..used).unwrap_or_default().fill(0);
        self.end = 0;
    }

    pub(super) fn is_within(&self, other: &Self) -> bool {
        self.used()
            .iter()
            .zip(other.words.0.iter())
            .all(|(mine, theirs)| mine & !theirs == 0)
    }

    pub(super) fn for_each(&self, mut visit: impl FnMut(i32)) {
        for (index, word) in self
            .used()
            .iter()
            .enumerate()
            .filter(|(_, word)| **word != 0)
        {
            for bit in (0..64).filter(|bit| word >> bit & 1 == 1) {
                if let Ok(pid) = i32::try_from(index * 64 + bit) {
                    visit(pid);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_was_put_in() {
        let (mut a, mut b) = (Pids::new().unwrap(), Pids::new().unwrap());
        for pid in [1, 63, 64, 4_194_303] {
            assert!(a.insert(pid));
        }
        assert!(!a.insert(4 << 20));
        assert!(a.has(64) && !a.has(65) && !a.is_within(&b));
        b.insert(1);
        assert!(b.is_within(&a));
        let mut sum = 0;
        a.for_each(|pid| sum += i64::from(pid));
        assert_eq!(sum, 1 + 63 + 64 + 4_194_303);
        a.clear();
        assert!(a.is_within(&b) && !a.has(1));
    }
}
