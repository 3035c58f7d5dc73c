//! The caller's side of a pool.

use super::frame::{MAX_FRAME, frame};
use super::interpreter::{Interpreter, READY, alike};
use super::refill::{self, Busy, Shared};
use crate::{Running, Spec, Stdin};
use std::io::{self, Read as _, Write as _};
use std::mem;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// Bytes of one argument at most, its NUL included: the kernel's `MAX_ARG_STRLEN`.
const MAX_ARGUMENT: usize = 128 << 10;

/// Why a pool cannot be filled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// An interpreter could not be started, or ended before it was ready.
    #[error("no {program} could be started ahead of its code: {why}")]
    NotStarted {
        /// The interpreter.
        program: &'static str,
        /// The reason, in its own words if it had any.
        why: String,
    },
    /// This process is a fork of the one that made the pool.
    #[error("the pool belongs to the process that made it, of which this one is a fork")]
    Forked,
}

/// Sandboxes in which an interpreter waits for its code.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    /// The thread that refills it.
    refill: Option<JoinHandle<()>>,
    /// The process that made it.
    owner: u32,
}

impl Pool {
    /// The most that a pool keeps.
    pub const MOST: usize = 64;

    /// Begins to fill a pool of `size` interpreters, at least one and at most [`Self::MOST`], for
    /// executions like `template`.
    ///
    /// # Errors
    /// When the thread that fills it cannot be started.
    pub fn new(interpreter: &'static Interpreter, template: Spec, size: usize) -> io::Result<Self> {
        let (woken, wake) = io::pipe()?;
        let size = size.clamp(1, Self::MOST);
        let shared = Arc::new(Shared::new(interpreter, template, size, wake));
        let own = Arc::clone(&shared);
        let refill = thread::Builder::new()
            .name("ringfence-prewarm".into())
            .spawn(move || refill::run(&own, woken))?;
        Ok(Self {
            shared,
            refill: Some(refill),
            owner: std::process::id(),
        })
    }

    /// Gives an execution to an interpreter that waits. `None`: it has to be
    /// [`spawn`](crate::spawn())ed, because the pool is not made for it or has none ready.
    #[must_use]
    pub fn take(&self, spec: &Spec) -> Option<Running> {
        if std::process::id() != self.owner || !self.serves(spec) {
            return None;
        }
        let frame = frame(spec)?;
        let mut served = None;
        while let Some((running, busy)) = self.shared.pop() {
            served = hand_over(running, busy, &frame, spec);
            if served.is_some() {
                break;
            }
        }
        self.shared.asked();
        served
    }

    /// Waits until the pool is full.
    ///
    /// # Errors
    /// [`PoolError`] when it cannot be filled. Executions still can take the ordinary way.
    pub fn wait_until_full(&self) -> Result<(), PoolError> {
        if std::process::id() != self.owner {
            return Err(PoolError::Forked);
        }
        self.shared.wait_until_full()
    }

    fn serves(&self, spec: &Spec) -> bool {
        // The files are written by the interpreter, within the limits, and not before it.
        let room = |limit: Option<u64>| limit.is_none_or(|bytes| bytes >= 4 * MAX_FRAME as u64);
        let limits = &spec.limits;
        self.shared.interpreter.runs(spec)
            && alike(spec, &self.shared.template)
            && room(limits.file_size)
            && room(limits.workspace)
            && spec
                .args
                .iter()
                .all(|arg| arg.len() < MAX_ARGUMENT && !arg.as_encoded_bytes().contains(&0))
    }
}

/// Tells a waiting interpreter what it is for. `None`: it was dead or could not do it, and nothing
/// of the code has run.
fn hand_over(mut running: Running, busy: Busy, frame: &[u8], spec: &Spec) -> Option<Running> {
    running.busy = Some(busy);
    running.begin().ok()?;
    running.stdin.as_mut()?.write_all(frame).ok()?;
    let mut answer = [0];
    running.stdout.as_mut()?.read_exact(&mut answer).ok()?;
    if spec.stdin == Stdin::Null {
        running.stdin = None;
    }
    (answer == [READY]).then_some(running)
}

impl Drop for Pool {
    fn drop(&mut self) {
        let Some(refill) = self.refill.take() else {
            return;
        };
        if std::process::id() != self.owner {
            // A fork has neither the thread nor the right to end what is its parent's.
            mem::forget(refill);
            mem::forget(Arc::clone(&self.shared));
            return;
        }
        self.shared.stop();
        // It does not panic; if it did, what it held has been dropped.
        let _ = refill.join();
    }
}
