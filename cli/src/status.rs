//! The command's exit status as a type.

use ringfence::{Error, Report};
use std::process::ExitCode;

/// An exit status with a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// All went well.
    Success,
    /// As the program ended: its own status, 128+N, 124 or 137.
    Program(u8),
    /// ringfence's own error.
    Own,
    /// The program was found but cannot be executed.
    NotExecutable,
    /// The program was not found.
    NotFound,
}

impl Status {
    pub(crate) const fn of_report(report: &Report) -> Self {
        Self::Program(report.exit_status())
    }

    pub(crate) fn of_error(error: &anyhow::Error) -> Self {
        match error.downcast_ref() {
            Some(Error::NotFound { .. }) => Self::NotFound,
            Some(Error::NotExecutable { .. }) => Self::NotExecutable,
            _ => Self::Own,
        }
    }

    /// Prints what clap has to say. A request for help is no error.
    pub(crate) fn of_usage(error: &clap::Error) -> Self {
        // Nothing can be done about a terminal that has gone.
        drop(error.print());
        if error.use_stderr() {
            Self::Own
        } else {
            Self::Success
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(match status {
            Status::Success => 0,
            Status::Program(code) => code,
            Status::Own => 125,
            Status::NotExecutable => 126,
            Status::NotFound => 127,
        })
    }
}
