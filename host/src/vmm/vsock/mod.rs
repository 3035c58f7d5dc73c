//! A virtio-vsock device: byte streams between the guest and host programs.
//!
//! | module | role |
//! |---|---|
//! | `packet` | the wire: headers as plain data |
//! | `credit`, `connection` | the state machine of one stream |
//! | `device`, `rings` | all streams of a guest, and its rings; transport-independent |
//! | `socket`, `poll` | sockets, readiness |
//! | `host` | the door for host programs |
//! | `mmio` | the transport for engines of our own |
//! | `vhost_user` | the transport for QEMU |
//!
//! # Trust
//! Everything in the rings is hostile. Code that it reaches never panics, never computes
//! unchecked, and holds a bounded amount of memory whatever the guest does; the lints below hold
//! that. A guest that breaks the protocol loses the connection it broke, one that breaks a ring
//! loses the device until its driver starts anew. Host programs are trusted.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod connection;
mod credit;
mod device;
mod host;
#[cfg(any(all(test, target_os = "linux"), feature = "fuzzing"))]
pub(crate) mod misbehave;
mod mmio;
mod packet;
mod poll;
mod rings;
mod socket;
#[cfg(any(all(test, target_os = "linux"), feature = "fuzzing"))]
#[cfg_attr(
    not(all(test, target_os = "linux")),
    expect(dead_code, reason = "the tests use more of it than the fuzz targets")
)]
mod testing;
#[cfg(all(test, target_os = "linux"))]
mod tests;
#[cfg(target_os = "linux")]
mod vhost_user;

pub(crate) use host::{Refused, VsockHost};
pub(crate) use mmio::{StartError, Vsock};
pub(crate) use packet::GuestCid;
#[cfg(target_os = "linux")]
pub(crate) use vhost_user::VhostUser;
