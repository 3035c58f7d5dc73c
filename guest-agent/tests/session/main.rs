//! The agent's sessions over Unix sockets: no machine, but the real sandbox.

#![cfg(target_os = "linux")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says by a panic that it failed"
)]

mod control;
mod exec;
mod host;
mod hostile;
mod supervise;
mod terminal;
