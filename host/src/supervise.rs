//! Supervised execution: a program's operations wait for a policy of the caller's.
//!
//! A policy is a closure that runs in this process, in a thread of its own for each execution, or a
//! stream of requests that are answered whenever that suits. What is asked was looked up by the sandbox's supervisor, which holds it open meanwhile and then
//! does exactly that, so that the program can change nothing between the question and the deed. A
//! program is executed by whoever asks, and looked at before its first instruction: if it is not the
//! file that was asked about, everything is killed.

mod requests;

use crate::Sandbox;
use ringfence_protocol::{Decision, Operation, Supervision};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use requests::{Desk, Source};
pub use requests::{PendingRequest, Requests};

/// How long a policy may think, unless said.
const LIMIT: Duration = Duration::from_secs(60);

/// Something that a supervised program wants to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// What.
    pub operation: Operation,
    /// To what; as the program sees it, without links. An abstract socket begins with `@`. The bytes
    /// are the program's choice: escape them before they reach a terminal.
    ///
    /// Of a script that is to be executed, the script: by its own path where the program may write
    /// to it, or where it is executed by just that path. Otherwise only a name is known, under which
    /// the interpreter may find another script: an absolute one as it was given, or the rest of it
    /// after the last `..`, or a relative one, which begins with no `/`.
    pub path: PathBuf,
    /// The new path of what is renamed; the interpreter of a script that is to be executed, which
    /// is the program that runs.
    pub destination: Option<PathBuf>,
    /// Which process asks, by its number in the sandbox.
    pub process: u32,
}

type Decide = dyn Fn(&Request) -> Decision + Send + Sync;

/// Who answers.
pub(crate) enum Judge {
    /// Whoever decides on the spot.
    Decides(Box<Decide>),
    /// Whoever listens, in his own time.
    IsTold(Source),
}

/// Which operations a program has to ask for, and who answers: a closure, or whoever takes the
/// requests from a stream.
///
/// ```no_run
/// # fn main() -> Result<(), ringfence::Error> {
/// use ringfence::{Decision, Operation, Policy, Sandbox};
///
/// let (policy, requests) = Policy::stream([Operation::Write, Operation::Delete]);
/// let answering = std::thread::spawn(move || {
///     let mut postponed = Vec::new();
///     for pending in requests {
///         match pending.request().operation {
///             Operation::Write => pending.answer(Decision::Allow),
///             // Others are asked and answered meanwhile.
///             _ => postponed.push(pending),
///         }
///         if postponed.len() == 2 {
///             postponed.drain(..).for_each(|pending| pending.answer(Decision::REFUSE));
///         }
///     }
/// });
/// let sandbox = Sandbox::builder().build()?.supervise(policy);
/// let out = sandbox.command("sh").args(["-c", "touch a b; rm a & rm b; wait; ls"]).output()?;
/// assert_eq!(out.stdout, b"a\nb\n");
/// // With the last that has the policy the stream ends.
/// drop(sandbox);
/// answering.join().ok();
/// # Ok(()) }
/// ```
#[must_use]
pub struct Policy {
    pub(crate) supervision: Supervision,
    pub(crate) judge: Judge,
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Policy").field(&self.supervision).finish()
    }
}

impl Policy {
    /// A policy for these operations. What it does not answer within a minute is refused. It is asked
    /// one thing after the other, so that what takes it long delays the other answers of the same
    /// execution; with [`stream`](Self::stream) nothing does.
    ///
    /// [`Operation::Exec`] asks about every program but the one that the command names, whatever its
    /// arguments are, and costs some half of a millisecond each time.
    pub fn new(
        operations: impl IntoIterator<Item = Operation>,
        decide: impl Fn(&Request) -> Decision + Send + Sync + 'static,
    ) -> Self {
        Self::of(operations, Judge::Decides(Box::new(decide)))
    }

    /// A policy for these operations whose requests are taken from a stream and answered in any
    /// order, from any thread, by an application or a person. What is not answered within a minute is
    /// refused.
    ///
    /// A program that waits for an answer delays no other. The requests of all commands that have the
    /// policy come to the same stream; with a policy of its own each is told from the others.
    pub fn stream(operations: impl IntoIterator<Item = Operation>) -> (Self, Requests) {
        let (source, requests) = requests::stream();
        (Self::of(operations, Judge::IsTold(source)), requests)
    }

    fn of(operations: impl IntoIterator<Item = Operation>, judge: Judge) -> Self {
        Self {
            supervision: Supervision {
                operations: operations.into_iter().collect(),
                limit: LIMIT,
                default: Decision::REFUSE,
            },
            judge,
        }
    }

    /// How long an answer may take.
    pub const fn limit(mut self, time: Duration) -> Self {
        self.supervision.limit = time;
        self
    }

    /// What counts when an answer takes longer, or is never to come.
    pub const fn otherwise(mut self, decision: Decision) -> Self {
        self.supervision.default = decision;
        self
    }
}

impl Sandbox {
    /// The same sandbox, whose commands ask this policy.
    ///
    /// Other operations go their way as before. What a policy allows is still confined: a path
    /// outside of what the program may write to is refused without a question. Refusals are among
    /// the [`violations`](crate::Report::violations) of the report. In a VM the questions and the
    /// answers travel to the caller and back.
    pub fn supervise(&self, policy: Policy) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            policy: Some(Arc::new(policy)),
        }
    }
}
