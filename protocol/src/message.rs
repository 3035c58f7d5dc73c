//! Messages of the exec and control connections.

use crate::{Decision, Layer, Limits, Network, Question, Report, Supervision};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// Bytes of a stream or file that travel in one frame at most. Large enough that the header and
/// the copy are paid seldom, small enough that streams take turns.
pub const CHUNK: usize = 64 << 10;

/// Bytes of file contents that travel inside [`Exec`] itself, over all files. What exceeds them
/// follows as [`ToAgent::FileData`].
pub const INLINE_FILES: usize = 512 << 10;

/// Bytes of standard input that the host may have sent beyond what [`FromAgent::StdinTaken`] has
/// acknowledged. So the agent can always read the connection, and a signal or the host's going is
/// seen at once even when the program does not read its input.
pub const STDIN_WINDOW: usize = 256 << 10;

/// Files that are collected from one workspace at most, and as many things that are named as not
/// collected.
pub const COLLECT_FILES: usize = 4096;

/// Bytes that are collected from one workspace at most; fewer where [`Limits::workspace`] is less.
pub const COLLECT_BYTES: u64 = 4 << 30;

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

impl Default for TerminalSize {
    /// 24 lines of 80 characters.
    fn default() -> Self {
        Self {
            rows: 24,
            columns: 80,
        }
    }
}

/// A file for the workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative path below the workspace; the receiver checks it.
    pub path: ByteBuf,
    /// Permission bits; others are ignored.
    pub mode: u32,
    /// Size of the whole content in bytes.
    pub size: u64,
    /// The first bytes of the content. The rest follows as [`ToAgent::FileData`].
    pub content: ByteBuf,
}

/// Everything about one execution, in one message, so that it costs one round trip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// A name to be found on `PATH`, or a path.
    pub program: ByteBuf,
    /// The arguments after the program's own name.
    pub args: Vec<ByteBuf>,
    /// Environment variables beyond the sandbox's own.
    pub env: Vec<(ByteBuf, ByteBuf)>,
    /// Files that are in the workspace before the program starts.
    pub files: Vec<FileEntry>,
    /// Patterns of workspace files that are sent back afterwards.
    pub collect: Vec<String>,
    /// What the execution may use.
    pub limits: Limits,
    /// What it reaches of the network.
    pub network: Network,
    /// Layers that must be in force beyond [`Layer::REQUIRED`].
    pub require: Vec<Layer>,
    /// What the program has to ask for.
    pub supervision: Option<Supervision>,
    /// The program's standard streams are a terminal of this size. What it shows comes as
    /// [`FromAgent::Stdout`]; [`ToAgent::StdinEnd`] has no meaning there.
    pub terminal: Option<TerminalSize>,
}

/// From the host on an exec connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ToAgent {
    /// Always the first, and only once.
    Exec(Box<Exec>),
    /// The next bytes of the files whose content [`Exec`] did not hold whole, in their order.
    FileData(ByteBuf),
    /// The next bytes of standard input, never more than [`STDIN_WINDOW`] unacknowledged.
    Stdin(ByteBuf),
    /// Standard input ends here.
    StdinEnd,
    /// Send the program a signal.
    Signal(u8),
    /// The program's terminal has a new size.
    Resize(TerminalSize),
    /// The answer to a [`FromAgent::Question`]. One that comes too late has no effect.
    Answer {
        /// Which question: [`Question::token`].
        token: u64,
        /// What is decided.
        decision: Decision,
    },
}

/// From the agent on an exec connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FromAgent {
    /// The program runs.
    Started,
    /// The program took this many more bytes of standard input, or they were dropped because it
    /// closed it.
    StdinTaken(u32),
    /// The next bytes of standard output.
    Stdout(ByteBuf),
    /// The next bytes of standard error.
    Stderr(ByteBuf),
    /// A collected file begins; its bytes follow as [`FromAgent::FileData`].
    File {
        /// Relative path below the workspace; the receiver checks it.
        path: ByteBuf,
        /// Permission bits.
        mode: u32,
        /// Size in bytes.
        size: u64,
    },
    /// The next bytes of the collected file.
    FileData(ByteBuf),
    /// The execution ended. Always the last.
    Exited(Box<Report>),
    /// The execution did not come about or could not be followed. Always the last.
    Failed(Failure),
    /// Something that matches a pattern, or may hide what would match, is not collected.
    NotCollected {
        /// Relative path below the workspace; the receiver checks it.
        path: ByteBuf,
        /// Why not.
        why: Uncollected,
    },
    /// No more is collected, for this reason; a file that has begun stays incomplete.
    CollectFailed(String),
    /// The program waits for an answer, or did not get one in time.
    Question(Box<Question>),
}

/// Why something in a workspace is not collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Uncollected {
    /// It is a symbolic link.
    Link,
    /// It is a device, a socket or a FIFO.
    Special,
    /// The program's user may not read it.
    Unreadable,
    /// It is not the program's own: a hard link to another user's file, or another file system.
    Foreign,
    /// It lies too deep, or its path is too long.
    TooDeep,
}

impl core::fmt::Display for Uncollected {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Link => "a symbolic link",
            Self::Special => "a device, socket or FIFO",
            Self::Unreadable => "unreadable for its owner",
            Self::Foreign => "not of the workspace",
            Self::TooDeep => "too deep or too long a path",
        })
    }
}

/// What kind of failure it was, as far as the caller can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FailureKind {
    /// No such program.
    NotFound,
    /// The program is there but cannot be executed.
    NotExecutable,
    /// An argument, path, limit or message that makes no sense.
    InvalidInput,
    /// A required layer cannot be had.
    LayerUnavailable,
    /// Anything else.
    Internal,
}

/// Why an execution did not come about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind.
    pub kind: FailureKind,
    /// For people: what failed, with which value, and what to do next.
    pub message: String,
}

/// An error and its causes in one line: the message of a [`Failure`].
#[must_use]
pub fn chain(error: &dyn core::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// From the host on a control connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ControlRequest {
    /// Are you well?
    Health,
    /// Set the guest's wall clock to this time since the Unix epoch.
    SetClock(Duration),
    /// How are you doing?
    Metrics,
    /// End every execution and power the machine off.
    Shutdown,
    /// Keep interpreters ready for executions like this one, in place of those that were kept. The
    /// reply does not wait for them.
    Prewarm {
        /// What the executions will be, but for program, arguments, files and input.
        like: Box<Exec>,
        /// How many; the agent keeps no more than it can.
        count: u32,
    },
    /// Reply when as many are ready, or with the reason why they cannot be.
    AwaitPrewarmed,
}

/// From the agent on a control connection, one per request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ControlReply {
    /// All is well, or the request was carried out.
    Ok,
    /// Answer to [`ControlRequest::Metrics`].
    Metrics {
        /// Since the guest's kernel started.
        uptime: Duration,
        /// Executions under way.
        running: u32,
        /// Executions since the start.
        executions: u64,
        /// Memory that is free for programs, in bytes.
        available_memory: u64,
    },
    /// The request failed.
    Failed(Failure),
}
