//! What an execution may use.

use core::time::Duration;
use serde::{Deserialize, Serialize};

/// Bounds of one execution. `None` means that this layer sets no bound of its own.
///
/// Any value is allowed, unless its field says otherwise: zero is a limit that is hit at once, and
/// values beyond what the kernel can express count as no bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Wall-clock time from the program's start until everything it started is killed.
    pub wall: Option<Duration>,
    /// CPU time of the program and its descendants.
    pub cpu: Option<Duration>,
    /// Memory of the program and its descendants in bytes. What could not hold any program, less
    /// than some hundred KiB, is hit at once.
    pub memory: Option<u64>,
    /// Processes and threads at one time.
    pub processes: Option<u64>,
    /// Open files per process.
    pub open_files: Option<u64>,
    /// Largest file that may be written, in bytes.
    pub file_size: Option<u64>,
    /// Everything below the workspace, in bytes.
    pub workspace: Option<u64>,
    /// Bytes of standard output and standard error together.
    pub output: Option<u64>,
    /// Processors' worth of time that the program and its descendants get at most, at any time.
    /// Zero is refused, being no limit that a program could run into.
    pub processors: Option<u8>,
}

impl Default for Limits {
    /// 30 s of wall time, 512 MiB of memory, 128 processes, 1024 open files, 256 MiB in the
    /// workspace, 16 MiB of output. CPU time and file size are bounded by wall time and workspace;
    /// processors are not bounded.
    fn default() -> Self {
        Self {
            wall: Some(Duration::from_secs(30)),
            cpu: None,
            memory: Some(512 << 20),
            processes: Some(128),
            open_files: Some(1024),
            file_size: None,
            workspace: Some(256 << 20),
            output: Some(16 << 20),
            processors: None,
        }
    }
}

/// What the program reaches of the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Network {
    /// Nothing at all.
    #[default]
    None,
}
