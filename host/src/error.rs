//! What can go wrong, in words that say what to do next.

use crate::CollectError;
pub(crate) use ringfence_protocol::chain;
use ringfence_protocol::{Failure, FailureKind, Layer};
use std::io;
use std::path::{Path, PathBuf};

/// Why an execution did not come about or could not be followed to its end.
///
/// A program that ran and failed is no error: its [`Report`](crate::Report) says how it ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such program in the sandbox.
    #[error("{message}")]
    NotFound {
        /// What was looked for, and where.
        message: String,
    },
    /// The program is there but cannot be executed.
    #[error("{message}")]
    NotExecutable {
        /// Which program, and why not.
        message: String,
    },
    /// An argument, path, variable or limit that makes no sense.
    #[error("{message}")]
    InvalidInput {
        /// Which value, and what would be right.
        message: String,
    },
    /// A layer that is required, or that a limit takes, cannot be had here. Nothing was run.
    #[error("{message}")]
    LayerUnavailable {
        /// Which layer, why, and how to get it.
        message: String,
    },
    /// The machine cannot do what was asked for.
    #[error("{what} is not available: {why}")]
    Unsupported {
        /// The isolation, engine or option.
        what: &'static str,
        /// The reason and the way out.
        why: String,
    },
    /// A file of the caller's could not be read.
    #[error("cannot read {}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A directory of the caller's cannot be written to.
    #[error("cannot write to {}", path.display())]
    Output {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The program ran, and not everything that was to be collected could be.
    #[error(transparent)]
    Collect(#[from] CollectError),
    /// The guest image is missing or damaged.
    #[error("the guest image cannot be used")]
    Image(#[from] ringfence_image::Error),
    /// The virtual machine did not start or ended early.
    #[error("{message}")]
    Machine {
        /// What happened, with the console's last lines where there are any.
        message: String,
    },
    /// The agent in the guest broke the protocol or went away.
    #[error("{message}")]
    Agent {
        /// What happened.
        message: String,
    },
    /// The operating system refused something that ringfence itself needs.
    #[error("{what}")]
    System {
        /// What was being done.
        what: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The sandbox could not be set up or followed, for a reason that is not the caller's.
    #[error("{message}")]
    Sandbox {
        /// The step that failed, and why.
        message: String,
    },
}

impl Error {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::InvalidInput {
            message: message.into(),
        }
    }

    /// A file of the caller's that is to be read.
    pub(crate) fn input(path: &Path, source: io::Error) -> Self {
        let source = match source.kind() {
            io::ErrorKind::NotFound => advised(&source, "name a file that is there"),
            _ => source,
        };
        Self::Input {
            path: path.to_owned(),
            source,
        }
    }

    /// A directory of the caller's that is to be written to.
    pub(crate) fn output(path: &Path, source: io::Error) -> Self {
        let source = match source.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => advised(
                &source,
                "a file is in the way; name a directory, or a new one outside of files",
            ),
            _ => source,
        };
        Self::Output {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) const fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }

    /// The errors above as the sandbox and the agent both name them.
    pub(crate) fn from_failure(failure: Failure) -> Self {
        let message = printable(&failure.message);
        match failure.kind {
            FailureKind::NotFound => Self::NotFound { message },
            FailureKind::NotExecutable => Self::NotExecutable { message },
            FailureKind::InvalidInput => Self::InvalidInput { message },
            FailureKind::LayerUnavailable => Self::LayerUnavailable { message },
            _ => Self::Sandbox { message },
        }
    }

    pub(crate) fn missing_layer(layer: Layer, why: &str) -> Self {
        Self::LayerUnavailable {
            message: format!("layer {layer} is required and not available: {why}"),
        }
    }
}

/// The same error with what to do next.
fn advised(error: &io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{error}; {what}"))
}

/// Text that came from the guest, without control characters that a terminal would obey, and
/// bounded.
pub(crate) fn printable(text: &str) -> String {
    const MOST: usize = 16 << 10;
    text.chars()
        .filter(|c| !c.is_control() || matches!(c, '\n' | '\t'))
        .take(MOST)
        .collect()
}
