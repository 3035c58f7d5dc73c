//! What tests of several devices share.

use super::InterruptLine;
use std::sync::Mutex;

/// An interrupt line that remembers its level, and that insists on hearing of changes only.
#[derive(Debug, Default)]
pub(crate) struct Line {
    asserted: Mutex<bool>,
    changed: std::sync::Condvar,
}

impl Line {
    pub(crate) fn asserted(&self) -> bool {
        *self.asserted.lock().unwrap()
    }

    /// Waits until the line is asserted.
    pub(crate) fn wait(&self) {
        let long = std::time::Duration::from_secs(20);
        let asserted = self.asserted.lock().unwrap();
        let (_asserted, result) = self
            .changed
            .wait_timeout_while(asserted, long, |asserted| !*asserted)
            .unwrap();
        assert!(!result.timed_out(), "no interrupt");
    }
}

impl InterruptLine for Line {
    fn set(&self, asserted: bool) {
        let mut level = self.asserted.lock().unwrap();
        assert_ne!(*level, asserted, "not a change");
        *level = asserted;
        self.changed.notify_all();
    }
}
