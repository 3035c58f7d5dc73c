//! What one execution is to be.

use crate::{Layer, Limits, Network, Supervision, TerminalSize, WorkspacePath};
use std::ffi::OsString;
use std::path::PathBuf;

/// Everything about one execution.
#[derive(Debug)]
pub struct Spec {
    /// A bare name to be found on `PATH`, an absolute path, or a path relative to the workspace
    /// that contains a slash.
    pub program: OsString,
    /// The arguments after the program's own name.
    pub args: Vec<OsString>,
    /// Environment variables beyond the sandbox's own; they win over those.
    pub env: Vec<(OsString, OsString)>,
    /// Files that are in the workspace before the program starts.
    pub files: Vec<InputFile>,
    /// Paths of the host that the program may use.
    pub grants: Vec<Grant>,
    /// What the execution may use. [`Limits::output`] is the caller's to enforce, who reads the
    /// streams, by [`Killer::kill`](crate::Killer::kill) with
    /// [`Ended::OutputExceeded`](crate::Ended::OutputExceeded).
    pub limits: Limits,
    /// What it reaches of the network.
    pub network: Network,
    /// Layers that must be in force beyond [`Layer::REQUIRED`].
    pub require: Vec<Layer>,
    /// Where standard input comes from.
    pub stdin: Stdin,
    /// The three standard streams are a terminal of the program's own, of this size, whatever
    /// [`Spec::stdin`] says; the caller's side of it is [`Running::terminal`](crate::Running).
    pub terminal: Option<TerminalSize>,
    /// Keep the workspace reachable after the end, as
    /// [`Finished::workspace`](crate::Finished::workspace).
    pub collect: bool,
    /// What the program has to ask for, by [`Running::questions`](crate::Running::questions).
    pub supervision: Option<Supervision>,
    /// Whether namespaces are tried.
    pub namespaces: Namespaces,
    /// The program waits for what it is to do: its time counts from `Running::begin` on.
    pub(crate) waits: bool,
}

impl Spec {
    /// An execution of `program` with the default limits and nothing else.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            files: Vec::new(),
            grants: Vec::new(),
            limits: Limits::default(),
            network: Network::None,
            require: Vec::new(),
            stdin: Stdin::Null,
            terminal: None,
            collect: false,
            supervision: None,
            namespaces: Namespaces::Auto,
            waits: false,
        }
    }
}

/// A file that is in the workspace before the program starts.
#[derive(Debug)]
pub struct InputFile {
    /// Where, below the workspace. Missing directories are made.
    pub path: WorkspacePath,
    /// Permission bits; others are ignored, and the owner can always read and write.
    pub mode: u32,
    /// What is in it.
    pub content: Content,
}

/// The content of an [`InputFile`].
#[derive(Debug)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// What this file holds from its start on.
    File(std::fs::File),
}

/// A path of the host that the program may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// A file or directory; absolute. Symbolic links are followed, now and once, but not those of
    /// `/proc`.
    pub path: PathBuf,
    /// Where the program finds it: absolute, or below the workspace; `None` for the same place.
    /// Any other place takes a mount namespace.
    pub destination: Option<PathBuf>,
    /// For what.
    pub access: Access,
}

/// What the program may do with a [`Grant`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Access {
    /// Read and execute.
    Read,
    /// Everything, as far as the sandbox's own user may.
    ReadWrite,
}

/// Where standard input comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stdin {
    /// It is empty.
    #[default]
    Null,
    /// The caller writes it to [`Running::stdin`](crate::Running::stdin).
    Piped,
}

/// Whether namespaces are tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Namespaces {
    /// Each one that the kernel grants.
    #[default]
    Auto,
    /// None. The sandbox then rests on the required layers alone, as on a kernel that refuses
    /// namespaces; tests use it to see that case anywhere.
    Off,
}
