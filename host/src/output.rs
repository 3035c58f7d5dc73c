//! What is left when an execution has ended.

use crate::{CollectError, Collected, Engine, Isolation};
use ringfence_protocol::{Ended, LayerState, Violation};
use std::time::Duration;

/// Why an execution ended, what it cost, and what confined it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
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
    /// Where it ran; never [`Isolation::Auto`].
    pub isolation: Isolation,
    /// What ran the VM, if there was one; never [`Engine::Auto`].
    pub engine: Option<Engine>,
    /// Each layer, in force or missing with the reason.
    pub layers: Vec<LayerState>,
    /// What the program tried and was stopped at, as far as the kernel tells.
    pub violations: Vec<Violation>,
}

impl Report {
    /// Whether the program ended by itself with exit status 0.
    #[must_use]
    pub const fn success(&self) -> bool {
        matches!(self.ended, Ended::Exited { code: 0 })
    }

    /// The exit status that a shell would show: the program's own, 128+N for signal N, 124 on a
    /// time limit, 137 where ringfence or the memory limit killed the program.
    #[must_use]
    pub const fn exit_status(&self) -> u8 {
        match self.ended {
            Ended::Exited { code } => code,
            Ended::Signaled { signal } => 128_u8.saturating_add(signal),
            Ended::TimedOut | Ended::CpuExceeded => 124,
            // The output limit, a kill and the memory limit all end in SIGKILL.
            _ => 137,
        }
    }
}

/// The collected result of [`Command::output`](crate::Command::output).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// Why it ended, what it cost, and what confined it.
    pub report: Report,
    /// Standard output, up to the output limit.
    pub stdout: Vec<u8>,
    /// Standard error, up to the output limit.
    pub stderr: Vec<u8>,
    /// Whether the output limit cut standard output or standard error short.
    pub truncated: bool,
    /// The files that [`Command::collect`](crate::Command::collect) asked for.
    pub collected: Result<Collected, CollectError>,
}
