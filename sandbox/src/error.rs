//! What can go wrong, typed, with what to do next.

use crate::Layer;
use ringfence_protocol::{Failure, FailureKind, chain};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// Why an execution did not come about. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// No such program.
    #[error("program {program:?} was not found; {hint}")]
    NotFound {
        /// As the caller named it.
        program: OsString,
        /// Where it was looked for, or what it needs.
        hint: String,
    },
    /// The program is there but cannot be executed.
    #[error("program {program:?} ({path:?}) cannot be executed: {why}")]
    NotExecutable {
        /// As the caller named it.
        program: OsString,
        /// The file that was found.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The program is a directory.
    #[error("program {program:?} is a directory; name a file in it")]
    IsDirectory {
        /// As the caller named it.
        program: OsString,
    },
    /// An argument, path, limit or file that makes no sense.
    #[error("{what}")]
    InvalidInput {
        /// What, with its value, and what is accepted.
        what: String,
    },
    /// A required layer cannot be had.
    #[error("the layer {layer} is required but cannot be had: {why}")]
    LayerUnavailable {
        /// Which.
        layer: Layer,
        /// The reason and how to get it.
        why: String,
    },
    /// Nothing here can hold the limit on processors.
    #[error(
        "the program cannot be kept to {count} of this machine's processors: {why}; or use \
         isolation vm, or set no limit on processors (--cpus)"
    )]
    ProcessorsUnbounded {
        /// How many it may use.
        count: u8,
        /// What is missing and how to get it.
        why: String,
    },
    /// A step of the preparation in the caller failed.
    #[error("cannot {step}")]
    Prepare {
        /// The step.
        step: &'static str,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
    /// A step inside the new process failed.
    #[error("the sandbox could not {step} ({detail})")]
    Setup {
        /// The step.
        step: &'static str,
        /// What the step was about, such as a path.
        detail: String,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
}

impl SpawnError {
    /// The same in the words that callers and the wire share.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let kind = match self {
            Self::NotFound { .. } => FailureKind::NotFound,
            Self::NotExecutable { .. } | Self::IsDirectory { .. } => FailureKind::NotExecutable,
            Self::InvalidInput { .. } => FailureKind::InvalidInput,
            Self::LayerUnavailable { .. } | Self::ProcessorsUnbounded { .. } => {
                FailureKind::LayerUnavailable
            }
            Self::Prepare { .. } | Self::Setup { .. } => FailureKind::Internal,
        };
        Failure {
            kind,
            message: chain(self),
        }
    }
}

/// Why an execution could not be followed to its end. Everything of it has been killed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The supervisor process ended without a report; somebody else killed it.
    #[error("the sandbox's supervisor ended without a report ({how}); its program was killed")]
    SupervisorLost {
        /// How it ended.
        how: String,
    },
    /// A system call of the caller's side failed.
    #[error("cannot {step}")]
    System {
        /// The step.
        step: &'static str,
        /// The operating system's reason.
        #[source]
        source: io::Error,
    },
}
