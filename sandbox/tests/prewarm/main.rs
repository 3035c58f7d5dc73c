//! An interpreter that was started ahead of its code gives what an ordinary one gives.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

#[path = "../common/mod.rs"]
mod common;
mod lifecycle;
mod program;

use common::{Outcome, file, finish, repeat_unprivileged, spec};
use ringfence_sandbox::{Interpreter, Namespaces, Pool, Spec, Stdin};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Each test looks at what the pool of this process leaves.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn script(code: &str, mode: Namespaces) -> Spec {
    let mut spec = spec("python3", &["main.py"], mode);
    spec.files = vec![file("main.py", 0o644, code.as_bytes())];
    spec
}

fn pool(mode: Namespaces, size: usize, change: impl Fn(&mut Spec)) -> Pool {
    let mut template = Spec::new("python3");
    template.namespaces = mode;
    change(&mut template);
    let pool = Pool::new(Interpreter::PYTHON, template, size).unwrap();
    pool.wait_until_full().unwrap();
    pool
}

/// Runs by the pool, which has to be ready for it.
fn served(pool: &Pool, mut spec: Spec, input: &[u8]) -> Outcome {
    pool.wait_until_full().unwrap();
    if !input.is_empty() {
        spec.stdin = Stdin::Piped;
    }
    finish(pool.take(&spec).unwrap(), input.to_vec())
}

#[test]
fn unprivileged() {
    repeat_unprivileged(&["unprivileged"]);
}
