//! What is said about an execution after it has ended.

use crate::LayerState;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// Why an execution ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Ended {
    /// The program returned.
    Exited {
        /// Its exit status.
        code: u8,
    },
    /// A signal ended the program, and nothing shows that a limit did.
    Signaled {
        /// The signal's number.
        signal: u8,
    },
    /// The wall-time limit was reached.
    TimedOut,
    /// The CPU-time limit was reached.
    CpuExceeded,
    /// The memory limit was reached and the kernel killed the program for it.
    MemoryExceeded,
    /// The output limit was reached.
    OutputExceeded,
    /// ringfence killed the program: a forbidden operation, or the caller's wish. Also where
    /// `SIGSYS` ended it, as the kernel does for a forbidden system call; it does not tell whether
    /// the program sent itself the signal.
    Killed,
}

/// Something the program tried and was killed or denied for.
///
/// Each system call that the filter denies is named once for each reason, however often it was made.
/// Also honest programs make some, to see whether they may.
///
/// The operations `system call` and `file size` are known by the signal alone that ended the
/// program, `SIGSYS` or `SIGXFSZ`. It can have sent itself either: they are as trustworthy as its
/// exit status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The layer that stopped it.
    pub layer: crate::Layer,
    /// The operation, as the kernel names it: a system call or an access right.
    pub operation: String,
    /// What it was aimed at, as far as that is known. Of a system call that was denied with `EPERM`:
    /// why it is.
    pub target: Option<String>,
}

/// What happened, what it cost, and what confined it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Why it ended.
    pub ended: Ended,
    /// From the program's start to the end of its last descendant.
    pub wall: Duration,
    /// User and system time of the program and every descendant.
    pub cpu: Duration,
    /// Peak memory in bytes: of the control group where there is one, otherwise the largest
    /// resident set of a single process.
    pub peak_memory: u64,
    /// Each layer, in force or missing with the reason. One that is in force but for a part is listed
    /// both ways.
    pub layers: Vec<LayerState>,
    /// What the program tried and was stopped at, as far as the kernel tells.
    pub violations: Vec<Violation>,
}
