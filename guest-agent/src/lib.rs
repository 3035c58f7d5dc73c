//! PID 1 and agent of the ringfence guest.
//!
//! One static binary, `/init` of the guest's initramfs, in two roles. [`init`] is PID 1: it mounts
//! the root file system, prepares control groups, starts the agent and from then on only reaps.
//! [`agent`] listens on vsock and runs one [`exec`] session per connection through
//! `ringfence_sandbox`.
//!
//! # Who is trusted
//! The programs that run in the sandbox are hostile. They cannot reach the agent: `AF_VSOCK` is
//! closed to them, and only connections of the host's CID are served. The host's frames are
//! checked all the same, so that a confused host cannot stop other executions. Everything that a
//! peer can grow is bounded.

#![cfg(target_os = "linux")]

pub mod agent;
pub mod control;
pub mod exec;
pub mod executions;
pub mod frame_io;
pub mod init;
pub mod prewarmed;
