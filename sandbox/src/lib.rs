//! The Linux sandbox of ringfence: runs one unreviewed program confined by Landlock, seccomp,
//! resource limits and, wherever the kernel permits, namespaces and a control group.
//!
//! [`spawn()`] takes a [`Spec`], which says everything about one execution, and returns a
//! [`Running`] once the program's `execve` succeeded. [`Running::wait`] returns when the program
//! and everything it started is dead and cleaned up.
//!
//! # Who is trusted
//! The caller is; the program is not. Nothing that the program does can reach the caller but bytes
//! on its two output pipes and its exit status.
//!
//! # Invariants
//! - Fail closed: the layers of [`Layer::REQUIRED`] and of [`Spec::require`] are in force before
//!   the program's first instruction, or it does not run.
//! - Nothing is left behind, also when the caller is killed: a supervisor process holds one end of
//!   a socket whose end of file means that the caller is gone.
//! - Between `clone` and `execve` only raw system calls are made; everything was prepared before.

#![cfg(target_os = "linux")]
#![warn(missing_docs)]

mod cgroup;
mod confine;
mod error;
mod host_directory;
mod identity;
mod init;
mod namespaces;
mod path;
mod plan;
mod prepare;
mod probe;
mod resolve;
mod rlimits;
mod running;
mod seccomp;
mod shim;
mod spawn;
mod spec;
mod sys;
mod view;
mod wire;

pub use error::{SpawnError, WaitError};
pub use path::{PathError, WorkspacePath};
pub use probe::probe;
pub use ringfence_protocol::{
    Ended, Layer, LayerState, LayerStatus, Limits, Network, Report, Violation,
};
pub use running::{Finished, Killer, Running};
pub use spawn::spawn;
pub use spec::{Access, Content, Grant, InputFile, Namespaces, Spec, Stdin};
