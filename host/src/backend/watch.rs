//! Brings a supervised program's questions to its policy, wherever the program runs.

use super::refusals::Refusals;
use crate::{Error, Policy, Request, Violation};
use ringfence_protocol::{ByteBuf, Decision, Operation, Question};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread;

/// Questions that wait for the policy at one time. The supervisor holds far fewer; further ones
/// expire, so that neither a slow policy nor a guest that was taken over fills the memory.
const WAITING: usize = 64;

/// A supervised execution's policy, in a thread of its own, and what it refused. The thread ends
/// with the execution, or when the policy has answered what it was asked last.
#[derive(Debug)]
pub(super) struct Watch {
    policy: Arc<Policy>,
    refusals: Arc<Refusals>,
    asked: SyncSender<(u64, Request)>,
}

impl Watch {
    /// Starts the thread. `answer` brings what the policy decided to the one who asked.
    pub(super) fn start(
        policy: Arc<Policy>,
        answer: impl Fn(u64, Decision) + Send + 'static,
    ) -> Result<Self, Error> {
        let refusals = Arc::new(Refusals::default());
        let (asked, receiver) = mpsc::sync_channel::<(u64, Request)>(WAITING);
        let (recorder, judge) = (Arc::clone(&refusals), Arc::clone(&policy));
        let thread = thread::Builder::new().name("ringfence-policy".into());
        let spawned = thread.spawn(move || {
            for (token, request) in receiver {
                answer(token, recorder.decide(&judge, token, &request));
            }
        });
        spawned.map_err(Error::system("cannot start a thread for the policy"))?;
        Ok(Self {
            policy,
            refusals,
            asked,
        })
    }

    /// Passes a question on. Does not wait for the policy.
    pub(super) fn take(&self, question: Question) {
        let path = |bytes: ByteBuf| PathBuf::from(OsString::from_vec(bytes.into_vec()));
        let request = Request {
            operation: question.operation,
            path: path(question.path),
            destination: question.destination.map(path),
            process: question.process,
        };
        if question.expired {
            self.refusals
                .expired(&self.policy, question.token, &request);
        } else {
            // With too many of them, or a policy that panicked, the default counts.
            let _ = self.asked.try_send((question.token, request));
        }
    }

    /// Whether the policy wants to be asked about this.
    pub(super) fn is_meant(&self, operation: Operation) -> bool {
        self.policy.supervision.operations.contains(&operation)
    }

    /// What was refused so far.
    pub(super) fn refused(&self) -> Vec<Violation> {
        self.refusals.take()
    }
}
