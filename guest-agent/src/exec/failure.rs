//! Why a session ends without a report, and how the host is told.

use crate::executions::Closed;
use crate::frame_io::{ReadError, WriteError};
use ringfence_protocol::{Failure, FailureKind, chain};
use ringfence_sandbox::{SpawnError, WaitError};

/// A session's end without a report.
#[derive(Debug)]
pub(crate) enum End {
    /// The host went away; there is nobody to tell.
    Gone,
    /// The host is told.
    Failed(Failure),
}

impl End {
    pub(crate) fn failed(kind: FailureKind, message: impl Into<String>) -> Self {
        Self::Failed(Failure {
            kind,
            message: message.into(),
        })
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::failed(FailureKind::InvalidInput, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::failed(FailureKind::Internal, message)
    }
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(_) => Self::Gone,
            ReadError::Frame(_) | ReadError::Truncated { .. } => Self::invalid(chain(&error)),
        }
    }
}

impl From<WriteError> for End {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Io(_) => Self::Gone,
            WriteError::Frame(_) => Self::internal(chain(&error)),
        }
    }
}

impl From<Closed> for End {
    fn from(closed: Closed) -> Self {
        Self::internal(closed.to_string())
    }
}

impl From<SpawnError> for End {
    fn from(error: SpawnError) -> Self {
        Self::Failed(error.failure())
    }
}

impl From<WaitError> for End {
    fn from(error: WaitError) -> Self {
        Self::internal(chain(&error))
    }
}
