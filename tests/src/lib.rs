//! Fixtures of the end-to-end tests.
//!
//! The tests are a black box: they see the `ringfence` command and the public API, nothing else.
//! Every scenario runs once for each [`Isolation`] of this machine, in a [`Lab`] of its own, which
//! also holds what the scenario must leave behind: nothing ([`leftovers`]).
//!
//! Waiting is always for an event (the end of a process, of a stream); deadlines only turn a hang
//! into a failure.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fixture fails the test by panicking"
)]

pub mod bare_metal;
pub mod guest;
mod isolation;
mod lab;
pub mod leftovers;
pub mod process;
mod run;
mod terminal;

pub use isolation::{Availability, Isolation, cpus, engine};
pub use lab::{Bench, Lab, PATH};
pub use run::{Outcome, Run, Running};
pub use terminal::Terminal;

/// A scenario: its name, what it proves is its documentation, and where it runs.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// The name, without the isolation.
    pub name: &'static str,
    /// Where it runs.
    pub on: &'static [Isolation],
    /// What is needed beyond the isolation: the reason to skip it, if any.
    pub missing: fn() -> Option<String>,
    /// The scenario itself; it panics to fail.
    pub body: fn(&Lab),
}

impl Scenario {
    /// In every isolation.
    #[must_use]
    pub const fn everywhere(name: &'static str, body: fn(&Lab)) -> Self {
        Self {
            name,
            on: &Isolation::ALL,
            missing: || None,
            body,
        }
    }

    /// In these isolations only.
    #[must_use]
    pub const fn on(name: &'static str, on: &'static [Isolation], body: fn(&Lab)) -> Self {
        Self {
            name,
            on,
            missing: || None,
            body,
        }
    }

    /// Only where this gives no reason against it.
    #[must_use]
    pub const fn unless(self, missing: fn() -> Option<String>) -> Self {
        Self { missing, ..self }
    }
}
