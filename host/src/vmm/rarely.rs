//! Log lines that a guest can cause: the more often, the more rarely.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts occurrences of something that a guest can repeat without end.
#[derive(Debug, Default)]
pub(crate) struct Rarely(AtomicU64);

impl Rarely {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts one more. `Some` with the number so far when it is worth a line: at powers of two.
    pub(crate) fn note(&self) -> Option<u64> {
        let count = self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        count.is_power_of_two().then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_get_rarer() {
        let rarely = Rarely::new();
        let lines = (0..1000).filter(|_| rarely.note().is_some()).count();
        assert_eq!(lines, 10);
    }
}
