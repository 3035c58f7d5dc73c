//! What supervised programs ask for as a stream, which an application or a person answers.
//!
//! # Invariants
//! - Whoever answers waits for nobody: an answer is passed on by the execution's own thread.
//! - What waits here is still to be answered: a request is withdrawn when its time is over, and with
//!   the end of its execution. Each execution has a bounded number of them.
//! - A request is settled once, also by being dropped, and no lock is held meanwhile.

use super::Request;
use ringfence_protocol::Decision;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

/// Where an execution's requests are settled.
pub(crate) trait Desk: Send + Sync {
    /// Answers a request. Has no effect if that was done before, or its time is over.
    fn settle(&self, token: u64, request: &Request, decision: Decision);

    /// Whether an answer would have an effect.
    fn is_open(&self, token: u64) -> bool;
}

/// The requests of a [`Policy::stream`](super::Policy::stream), in the order in which they were
/// made. The next one is waited for; there is none any more when the policy has been dropped with
/// every sandbox, command and child that had it.
///
/// When this is dropped, the policy's default counts at once for what waits and what is still to
/// come; requests that were taken can still be answered.
#[derive(Debug)]
pub struct Requests {
    queue: Arc<Queue>,
}

impl Iterator for Requests {
    type Item = PendingRequest;

    fn next(&mut self) -> Option<PendingRequest> {
        let idle = |state: &mut State| state.waiting.is_empty() && !state.has_ended;
        let state = self.queue.changed.wait_while(self.queue.state(), idle);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.waiting.pop_front()
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.is_heard = false;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        drop(waiting);
    }
}

/// A request that waits for its answer, in whatever order and from whatever thread that comes.
///
/// Dropped without an answer, it gets the policy's default at once.
#[must_use = "dropped without an answer, the policy's default counts"]
pub struct PendingRequest {
    pub(crate) request: Request,
    pub(crate) token: u64,
    pub(crate) default: Decision,
    pub(crate) desk: Weak<dyn Desk>,
}

impl PendingRequest {
    /// What the program wants to do.
    pub const fn request(&self) -> &Request {
        &self.request
    }

    /// Whether an answer would still count: neither is the time for it over, nor the execution.
    pub fn is_pending(&self) -> bool {
        let desk = self.desk.upgrade();
        desk.is_some_and(|desk| desk.is_open(self.token))
    }

    /// Answers. Does not wait; has no effect when it comes too late.
    pub fn answer(self, decision: Decision) {
        self.settle(decision);
    }

    fn settle(&self, decision: Decision) {
        if let Some(desk) = self.desk.upgrade() {
            desk.settle(self.token, &self.request, decision);
        }
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        self.settle(self.default);
    }
}

impl fmt::Debug for PendingRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PendingRequest")
            .field(&self.request)
            .finish()
    }
}

/// Where the requests of a policy's executions come from.
#[derive(Debug)]
pub(crate) struct Source(Arc<Queue>);

impl Source {
    /// Passes a request on. Where nobody listens any more it is dropped, and so settled.
    pub(crate) fn put(&self, request: PendingRequest) {
        let mut state = self.0.state();
        if state.is_heard {
            state.waiting.push_back(request);
            drop(state);
            self.0.changed.notify_one();
        } else {
            drop(state);
            drop(request);
        }
    }

    /// Takes back what waits and is not for this.
    pub(crate) fn retain(&self, is_kept: impl Fn(&PendingRequest) -> bool) {
        let mut state = self.0.state();
        let waiting = std::mem::take(&mut state.waiting).into_iter();
        let (kept, withdrawn): (VecDeque<_>, VecDeque<_>) = waiting.partition(is_kept);
        state.waiting = kept;
        drop(state);
        drop(withdrawn);
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.0.state().has_ended = true;
        self.0.changed.notify_one();
    }
}

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<PendingRequest>,
    /// Somebody may take what waits.
    is_heard: bool,
    /// Nothing will be added.
    has_ended: bool,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Both ends of a new stream.
pub(super) fn stream() -> (Source, Requests) {
    let queue = Arc::new(Queue {
        state: Mutex::new(State {
            waiting: VecDeque::new(),
            is_heard: true,
            has_ended: false,
        }),
        changed: Condvar::new(),
    });
    let source = Source(Arc::clone(&queue));
    (source, Requests { queue })
}
