//! Where the requests of one execution are settled that are answered in no particular order.

use super::refusals::Refusals;
use crate::Request;
use crate::supervise::Desk as Settles;
use ringfence_protocol::Decision;
use std::collections::BTreeSet;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The requests of one execution.
#[derive(Debug)]
pub(super) struct Desk {
    refusals: Arc<Refusals>,
    /// The tokens of what is to be answered, until the execution has ended.
    open: Mutex<Option<BTreeSet<u64>>>,
    /// To the thread that brings the answers to the one who asked.
    answers: SyncSender<(u64, Decision)>,
}

impl Desk {
    pub(super) const fn new(refusals: Arc<Refusals>, answers: SyncSender<(u64, Decision)>) -> Self {
        Self {
            refusals,
            open: Mutex::new(Some(BTreeSet::new())),
            answers,
        }
    }

    fn open(&self) -> MutexGuard<'_, Option<BTreeSet<u64>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a request. False: there are as many as this already, or this very one, or the
    /// execution has ended.
    pub(super) fn begin(&self, token: u64, most: usize) -> bool {
        let mut open = self.open();
        let open = open.as_mut().filter(|open| open.len() < most);
        open.is_some_and(|open| open.insert(token))
    }

    /// Answers have no effect from now on.
    pub(super) fn end(&self) {
        *self.open() = None;
    }

    fn close(&self, token: u64) -> bool {
        let mut open = self.open();
        open.as_mut().is_some_and(|open| open.remove(&token))
    }

    /// The default was applied to a request by the one who asked.
    pub(super) fn expire(&self, token: u64, request: &Request, default: Decision) {
        self.close(token);
        self.refusals.refused(default, request);
    }
}

impl Settles for Desk {
    fn settle(&self, token: u64, request: &Request, decision: Decision) {
        if self.close(token) {
            self.refusals.refused(decision, request);
            // There is room for all that an honest sandbox asks. Whoever asks more and does not take
            // the answers gets none.
            let _ = self.answers.try_send((token, decision));
        }
    }

    fn is_open(&self, token: u64) -> bool {
        let open = self.open();
        open.as_ref().is_some_and(|open| open.contains(&token))
    }
}
