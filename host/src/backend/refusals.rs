//! What a policy refused, for the report.

use crate::error::printable;
use crate::{Policy, Request};
use ringfence_protocol::{Decision, Layer, Violation};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Refusals that a report names at most.
const MOST_VIOLATIONS: usize = 64;

/// What was refused in one execution.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Recorded>);

#[derive(Debug, Default)]
struct Recorded {
    violations: Vec<Violation>,
    expired: BTreeSet<u64>,
}

impl Refusals {
    pub(super) fn take(&self) -> Vec<Violation> {
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut recorded.violations)
    }

    /// The default was applied to this question.
    pub(super) fn expired(&self, policy: &Policy, token: u64, request: &Request) {
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A policy that never answers cannot make this grow without bound.
        if recorded.expired.len() < MOST_VIOLATIONS {
            recorded.expired.insert(token);
        }
        recorded.refused(policy.supervision.default, request);
    }

    /// Asks the policy, and remembers a refusal that still counts.
    pub(super) fn decide(&self, policy: &Policy, token: u64, request: &Request) -> Decision {
        let decision = policy.decide(request);
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !recorded.expired.remove(&token) {
            recorded.refused(decision, request);
        }
        decision
    }
}

impl Recorded {
    fn refused(&mut self, decision: Decision, request: &Request) {
        if decision == Decision::Allow || self.violations.len() >= MOST_VIOLATIONS {
            return;
        }
        let path = request.path.to_string_lossy();
        let target = request.destination.as_ref().map_or_else(
            || path.clone().into_owned(),
            |destination| format!("{path} -> {}", destination.to_string_lossy()),
        );
        self.violations.push(Violation {
            layer: Layer::Seccomp,
            operation: request.operation.name().into(),
            target: Some(printable(&target)),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_protocol::Operation;

    fn request() -> Request {
        Request {
            operation: Operation::Rename,
            path: "/workspace/a".into(),
            destination: Some("/workspace/b".into()),
            process: 2,
        }
    }

    #[test]
    fn refusals_are_counted_once_and_bounded() {
        let policy = Policy::new(Operation::ALL, |_| Decision::Deny(13));
        let refusals = Refusals::default();
        refusals.expired(&policy, 1, &request());
        refusals.decide(&policy, 1, &request());
        let [violation] = refusals.take().try_into().unwrap();
        assert_eq!(violation.operation, "rename");
        assert_eq!(violation.target.unwrap(), "/workspace/a -> /workspace/b");
        for token in 0..1000 {
            refusals.decide(&policy, token, &request());
            refusals.expired(&policy, token, &request());
        }
        assert_eq!(refusals.take().len(), MOST_VIOLATIONS);
        let policy = Policy::new([], |_| Decision::Allow);
        refusals.decide(&policy, 5000, &request());
        assert!(refusals.take().is_empty());
    }
}
