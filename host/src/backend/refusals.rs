//! What a policy refused, for the report.

use crate::Request;
use crate::error::printable;
use ringfence_protocol::{Decision, Layer, Violation};
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
        std::mem::take(&mut self.recorded().violations)
    }

    /// The default was applied to this question.
    pub(super) fn expired(&self, default: Decision, token: u64, request: &Request) {
        let mut recorded = self.recorded();
        // A policy that never answers cannot make this grow without bound.
        if recorded.expired.len() < MOST_VIOLATIONS {
            recorded.expired.insert(token);
        }
        recorded.refused(default, request);
    }

    /// The policy has decided. Remembers a refusal that still counts.
    pub(super) fn decided(&self, decision: Decision, token: u64, request: &Request) {
        let mut recorded = self.recorded();
        if !recorded.expired.remove(&token) {
            recorded.refused(decision, request);
        }
    }

    /// Remembers what counts, if it is a refusal.
    pub(super) fn refused(&self, decision: Decision, request: &Request) {
        self.recorded().refused(decision, request);
    }

    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let refused = Decision::Deny(13);
        let refusals = Refusals::default();
        refusals.expired(refused, 1, &request());
        refusals.decided(refused, 1, &request());
        let [violation] = refusals.take().try_into().unwrap();
        assert_eq!(violation.operation, "rename");
        assert_eq!(violation.target.unwrap(), "/workspace/a -> /workspace/b");
        for token in 0..1000 {
            refusals.decided(refused, token, &request());
            refusals.expired(refused, token, &request());
        }
        assert_eq!(refusals.take().len(), MOST_VIOLATIONS);
        refusals.decided(Decision::Allow, 5000, &request());
        assert!(refusals.take().is_empty());
    }
}
