//! Brings a supervised program's questions to its policy, wherever the program runs.

use super::desk::Desk;
use super::refusals::Refusals;
use crate::supervise::{Desk as Settles, Judge, PendingRequest};
use crate::{Error, Policy, Request, Violation};
use ringfence_protocol::{ByteBuf, Decision, Operation, Question};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Weak};
use std::thread;

/// Questions of one execution that wait for the policy at one time. The supervisor holds far fewer;
/// further ones expire, so that neither a slow policy nor a guest that was taken over fills the
/// memory.
const WAITING: usize = 64;

/// A supervised execution's policy, and what it refused. A thread of its own asks a policy that
/// decides, or brings the answers that come to a stream; it ends with the execution, or when the
/// policy has answered what it was asked last.
#[derive(Debug)]
pub(super) struct Watch {
    policy: Arc<Policy>,
    refusals: Arc<Refusals>,
    way: Way,
}

/// How questions are put.
#[derive(Debug)]
enum Way {
    /// To whoever decides on the spot.
    Asked(SyncSender<(u64, Request)>),
    /// In a stream.
    Told(Arc<Desk>),
}

impl Watch {
    /// Starts the thread. `answer` brings what was decided to the one who asked.
    pub(super) fn start(
        policy: Arc<Policy>,
        answer: impl Fn(u64, Decision) + Send + 'static,
    ) -> Result<Self, Error> {
        let refusals = Arc::new(Refusals::default());
        let way = match &policy.judge {
            Judge::Decides(_) => {
                let (recorder, judge) = (Arc::clone(&refusals), Arc::clone(&policy));
                let asked = serve(move |(token, request): (u64, Request)| {
                    if let Judge::Decides(decide) = &judge.judge {
                        let decision = decide(&request);
                        recorder.decided(decision, token, &request);
                        answer(token, decision);
                    }
                });
                Way::Asked(asked?)
            }
            Judge::IsTold(_) => {
                let answers = serve(move |(token, decision)| answer(token, decision))?;
                Way::Told(Arc::new(Desk::new(Arc::clone(&refusals), answers)))
            }
        };
        Ok(Self {
            policy,
            refusals,
            way,
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
        let (token, default) = (question.token, self.policy.supervision.default);
        match &self.way {
            Way::Asked(_) if question.expired => self.refusals.expired(default, token, &request),
            // With too many of them, or a policy that panicked, the default counts.
            Way::Asked(asked) => drop(asked.try_send((token, request))),
            Way::Told(desk) if question.expired => {
                desk.expire(token, &request, default);
                self.withdraw(desk, Some(token));
            }
            Way::Told(desk) => self.tell(desk, token, request),
        }
    }

    fn tell(&self, desk: &Arc<Desk>, token: u64, request: Request) {
        if let Judge::IsTold(source) = &self.policy.judge
            && desk.begin(token, WAITING)
        {
            source.put(PendingRequest {
                request,
                token,
                default: self.policy.supervision.default,
                desk: weak(desk),
            });
        }
    }

    /// Takes one request back that nobody has looked at, or all.
    fn withdraw(&self, desk: &Arc<Desk>, token: Option<u64>) {
        if let Judge::IsTold(source) = &self.policy.judge {
            let own = weak(desk);
            source.retain(|request| {
                !Weak::ptr_eq(&request.desk, &own)
                    || token.is_some_and(|token| token != request.token)
            });
        }
    }

    /// Whether the policy wants to be asked about this.
    pub(super) fn is_meant(&self, operation: Operation) -> bool {
        self.policy.supervision.operations.contains(&operation)
    }

    /// The execution has ended: what is still to be answered in a stream need not be.
    pub(super) fn end(&self) {
        if let Way::Told(desk) = &self.way {
            desk.end();
            self.withdraw(desk, None);
        }
    }

    /// What was refused so far.
    pub(super) fn refused(&self) -> Vec<Violation> {
        self.refusals.take()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

fn weak(desk: &Arc<Desk>) -> Weak<dyn Settles> {
    let desk: Weak<Desk> = Arc::downgrade(desk);
    desk
}

/// A thread that serves what it is sent, until nobody can send any more.
fn serve<T: Send + 'static>(each: impl Fn(T) + Send + 'static) -> Result<SyncSender<T>, Error> {
    let (sender, receiver): (_, Receiver<T>) = mpsc::sync_channel(WAITING);
    let thread = thread::Builder::new().name("ringfence-policy".into());
    let spawned = thread.spawn(move || receiver.into_iter().for_each(each));
    spawned.map_err(Error::system("cannot start a thread for the policy"))?;
    Ok(sender)
}
