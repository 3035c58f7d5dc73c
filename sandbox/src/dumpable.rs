//! Keeps the caller as dumpable as it was.
//!
//! The kernel makes a process's memory "not dumpable" when its user changes, and the program's
//! process changes its user while it still shares the caller's memory. Nothing of the caller is
//! exposed by that, but core dumps of it would be lost, and debuggers of the same user locked out.
//! So where the user changes (the caller is root), what it was is restored once no start is under
//! way. Whoever calls `prctl(PR_SET_DUMPABLE)` within the millisecond of a start is overruled.

use crate::sys;
use std::sync::{Mutex, PoisonError};

/// Starts under way, and what the attribute was before the first of them.
static STARTS: Mutex<(usize, usize)> = Mutex::new((0, 0));

const DUMPABLE: usize = 1;

/// A start is under way.
#[derive(Debug)]
pub(crate) struct Guard;

impl Guard {
    pub(crate) fn new() -> Self {
        let mut starts = STARTS.lock().unwrap_or_else(PoisonError::into_inner);
        if starts.0 == 0 {
            starts.1 = current();
        }
        starts.0 = starts.0.saturating_add(1);
        Self
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut starts = STARTS.lock().unwrap_or_else(PoisonError::into_inner);
        starts.0 = starts.0.saturating_sub(1);
        if *starts == (0, DUMPABLE) && current() != DUMPABLE {
            let _ = sys::prctl(libc::PR_SET_DUMPABLE, [DUMPABLE, 0, 0, 0]);
        }
    }
}

fn current() -> usize {
    sys::prctl(libc::PR_GET_DUMPABLE, [0; 4]).unwrap_or(0)
}
