//! Run code that nobody has reviewed: a model's answer, a pull request's script, a user's plug-in.
//!
//! ```no_run
//! # fn main() -> Result<(), ringfence::Error> {
//! let out = ringfence::python("print(6 * 7)").output()?;
//! assert_eq!(out.stdout, b"42\n");
//! # Ok(()) }
//! ```
//!
//! On Linux the program runs in a Landlock/seccomp sandbox on the host's own kernel
//! ([`Isolation::Process`]). Anywhere else, and on request, it runs in the very same sandbox inside
//! a small Linux VM ([`Isolation::Vm`]). The caller writes the same code for both.
//!
//! The surface reads like [`std::process`]: a [`Sandbox`] makes [`Command`]s, a [`Command`] spawns
//! a [`Child`] or gives an [`Output`], and every execution ends with a [`Report`] of why it ended,
//! what it cost and which layers confined it.
//!
//! ```no_run
//! # fn main() -> Result<(), ringfence::Error> {
//! use ringfence::Sandbox;
//! use std::time::Duration;
//!
//! let sandbox = Sandbox::builder().memory(256 << 20).timeout(Duration::from_secs(5)).build()?;
//! let out = sandbox
//!     .command("python3")
//!     .arg("main.py")
//!     .file("main.py", "import sys; print(sys.stdin.read().upper())")
//!     .input("hello")
//!     .output()?;
//! assert_eq!(out.stdout, b"HELLO\n");
//! # Ok(()) }
//! ```
//!
//! # Trust
//! The program is hostile, and so is the guest it may have taken over: nothing that either says is
//! believed without a check, and every buffer that they fill is bounded.

#![warn(missing_docs)]

/// The example of the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

mod backend;
mod child;
mod collect;
mod command;
mod doctor;
mod error;
mod language;
mod output;
mod pump;
mod sandbox;
mod stdio;
mod supervise;
mod vmm;
pub mod worker;

pub use child::{Child, ChildStderr, ChildStdin, ChildStdout, Killer};
pub use collect::{CollectError, Collected, CollectedFile, SkippedFile};
pub use command::Command;
pub use doctor::{Diagnosis, EngineState, doctor};
pub use error::Error;
pub use language::{Language, UnknownLanguage, node, python, shell};
pub use output::{Output, Report};
pub use ringfence_image as image;
pub use ringfence_protocol::{
    Decision, Ended, Layer, LayerState, LayerStatus, Limits, Operation, TerminalSize, Uncollected,
    UnknownLayer, UnknownOperation, Violation,
};
pub use sandbox::{Engine, Isolation, Sandbox, SandboxBuilder, UnknownName};
pub use stdio::Stdio;
pub use supervise::{PendingRequest, Policy, Request, Requests};
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use vmm::fuzzing;
