//! Supervised execution: what can be asked about, and what can be answered.

use alloc::collections::BTreeSet;
use core::fmt;
use core::str::FromStr;
use core::time::Duration;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Something that a program can be made to ask for first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Operation {
    /// Opens a file so that it can be changed, makes it, or cuts it off.
    Write,
    /// Removes a file or an empty directory, or renames something over it where [`Rename`] is not
    /// asked about.
    ///
    /// [`Rename`]: Self::Rename
    Delete,
    /// Gives a file or directory another name.
    Rename,
    /// Connects to a Unix socket.
    Connect,
    /// Executes a program.
    Exec,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 5] = [
        Self::Write,
        Self::Delete,
        Self::Rename,
        Self::Connect,
        Self::Exec,
    ];

    /// The name as the command line spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Rename => "rename",
            Self::Connect => "connect",
            Self::Exec => "exec",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there are only write, delete, rename, connect and exec")]
pub struct UnknownOperation;

impl FromStr for Operation {
    type Err = UnknownOperation;

    fn from_str(text: &str) -> Result<Self, UnknownOperation> {
        let mut all = Self::ALL.into_iter();
        all.find(|operation| operation.name() == text)
            .ok_or(UnknownOperation)
    }
}

/// The answer to a program that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It is done.
    Allow,
    /// It is not done, and the program gets this error number of Linux.
    Deny(i32),
    /// It is not done, and everything is killed.
    Kill,
}

impl Decision {
    /// "Operation not permitted", the plain refusal.
    pub const REFUSE: Self = Self::Deny(1);
}

/// Which operations are asked about, and what happens without an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supervision {
    /// These are.
    pub operations: BTreeSet<Operation>,
    /// An answer that takes longer counts for nothing.
    pub limit: Duration,
    /// What counts instead.
    pub default: Decision,
}

/// Something that a supervised program waits for, or did not get in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Names the question in its answer.
    pub token: u64,
    /// What the program wants to do.
    pub operation: Operation,
    /// To what; as the program sees it, without links. An abstract socket begins with `@`. A script
    /// that is executed, and that the program may not write to, has the name by which it is
    /// executed, where that is not its own path: relative if any of it is.
    pub path: ByteBuf,
    /// The new path of what is renamed; the interpreter of a script that is executed.
    pub destination: Option<ByteBuf>,
    /// Which process asks, by its number in the sandbox.
    pub process: u32,
    /// It waits no longer: the default has been applied; or it was done without having been asked
    /// about, as far as that can be, and everything is killed.
    pub expired: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for operation in Operation::ALL {
            assert_eq!(operation.name().parse(), Ok(operation));
        }
        assert_eq!("read".parse::<Operation>(), Err(UnknownOperation));
    }
}
