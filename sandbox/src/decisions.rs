//! Bytes as decisions, for property tests and for fuzzing.

/// When the bytes are used up every decision is zero.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decisions<'d>(pub(crate) &'d [u8]);

impl<'d> Decisions<'d> {
    pub(crate) const fn are_over(&self) -> bool {
        self.0.is_empty()
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        for (byte, given) in taken.iter_mut().zip(self.slice(N)) {
            *byte = *given;
        }
        taken
    }

    /// As many bytes, or those that are left.
    pub(crate) fn slice(&mut self, len: usize) -> &'d [u8] {
        let (now, later) = self.0.split_at(len.min(self.0.len()));
        self.0 = later;
        now
    }

    /// Any number.
    pub(crate) fn value(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// Any number that fits.
    pub(crate) fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    /// A number below `end`, which is small, from as few bytes as can say it.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let number = if end <= 0x100 {
            u16::from(u8::from_le_bytes(self.bytes()))
        } else {
            u16::from_le_bytes(self.bytes())
        };
        usize::from(number).checked_rem(end).unwrap_or(0)
    }

    /// One of these.
    pub(crate) fn one<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len()))
    }
}
