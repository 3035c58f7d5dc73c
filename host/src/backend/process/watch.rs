//! The threads that bring a supervised program's questions to its policy.

use super::refusals::Refusals;
use crate::{Error, Policy, Violation};
use ringfence_sandbox::Questions;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

/// The threads of a supervised execution.
#[derive(Debug)]
pub(super) struct Watch {
    refusals: Arc<Refusals>,
    /// Ends with the execution. The one that asks the policy ends when that has answered.
    reader: JoinHandle<()>,
}

impl Watch {
    pub(super) fn start(mut questions: Questions, policy: Arc<Policy>) -> Result<Self, Error> {
        let refusals = Arc::new(Refusals::default());
        let answerer = questions.answerer();
        // The supervisor has no more than a few questions open at one time.
        let (sender, receiver) = mpsc::channel::<(u64, crate::Request)>();
        let failed = Error::system("cannot start a thread for the policy");
        let (recorder, judge) = (Arc::clone(&refusals), Arc::clone(&policy));
        let asker = thread::Builder::new().name("ringfence-policy".into());
        let asker = asker.spawn(move || {
            for (token, request) in receiver {
                answerer.answer(token, recorder.decide(&judge, token, &request));
            }
        });
        let recorder = Arc::clone(&refusals);
        let reader = thread::Builder::new().name("ringfence-questions".into());
        let reader = asker.and_then(|_detached| {
            reader.spawn(move || {
                while let Some(question) = questions.next_question() {
                    let request = crate::Request {
                        operation: question.operation,
                        path: question.path,
                        destination: question.destination,
                        process: question.process,
                    };
                    if question.expired {
                        recorder.expired(&policy, question.token, &request);
                    } else if sender.send((question.token, request)).is_err() {
                        // The policy panicked: the default counts from now on.
                        break;
                    }
                }
            })
        });
        let reader = reader.map_err(failed)?;
        Ok(Self { refusals, reader })
    }

    /// What was refused until the end, which has come.
    pub(super) fn end(self) -> Vec<Violation> {
        // It does not panic; if it did, its refusals up to then are recorded.
        let _ = self.reader.join();
        self.refusals.take()
    }
}
