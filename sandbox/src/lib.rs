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

//!
//! # What it does not do
//! - Without a mount namespace the size of the workspace is not bounded, but for the size of each
//!   file; and of `/proc` a program sees its first process's own directory alone. Changes of
//!   metadata and connections to Unix sockets are then performed by the supervisor, within what the
//!   program may write to; where the kernel gives it no notifications of them, they are refused.
//! - Without a control group, memory is bounded for each process and for private memory alone, and
//!   the peak is the largest resident set of one process, which is never told smaller than the
//!   caller's own at the start.
//! - Without a process namespace, a program whose supervisor *and* caller are both killed loses its
//!   first process, but descendants of that live on.

#![cfg(target_os = "linux")]
#![warn(missing_docs)]

mod cgroup;
mod clone;
mod collect;
mod confine;
mod costs;
#[cfg(any(test, feature = "fuzzing"))]
mod decisions;
mod dumpable;
mod ends;
mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod grants;
mod host_directory;
mod identity;
mod init;
mod installation;
mod mediation;
#[cfg(any(test, feature = "fuzzing"))]
mod misbehave;
mod namespaces;
mod path;
mod place;
mod plan;
mod prepare;
mod prewarm;
mod probe;
mod processors;
mod questions;
mod resolve;
mod rlimits;
mod running;
mod seccomp;
mod shim;
mod spawn;
mod spec;
mod sys;
mod system;
mod terminal;
mod view;
mod wire;

pub use collect::{CollectError, Collection, Found, Patterns};
pub use error::{SpawnError, WaitError};
pub use path::{PathError, WorkspacePath};
pub use prewarm::{Interpreter, Pool, PoolError};
pub use probe::probe;
pub use questions::{Answerer, Questions};
pub use ringfence_protocol::{
    Decision, Ended, Layer, LayerState, LayerStatus, Limits, Network, Operation, Question, Report,
    Supervision, TerminalSize, Uncollected, Violation,
};
pub use running::{Finished, Killer, Running};
pub use spawn::spawn;
pub use spec::{Access, Content, Grant, InputFile, Namespaces, Spec, Stdin};
pub use terminal::Terminal;
