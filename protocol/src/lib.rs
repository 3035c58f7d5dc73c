//! The words that the ringfence host and its guest agent share, and how they travel.
//!
//! Three kinds of connection exist, each on a vsock port of its own ([`port`]). Every one begins
//! with a [`Hello`] both ways. Each frame is a little-endian `u32` length followed by one postcard
//! value ([`frame`]); a length above [`frame::MAX_FRAME`] is refused before anything is allocated
//! for it.
//!
//! | connection | opened by | host sends | agent sends |
//! |---|---|---|---|
//! | [`port::READY`] | guest | [`Hello`] | [`Hello`]; that it came is the message |
//! | [`port::EXEC`] | host | [`ToAgent`] | [`FromAgent`] |
//! | [`port::CONTROL`] | host | [`ControlRequest`] | [`ControlReply`] |
//!
//! Neither side trusts the other. Decoding is total: any bytes give a value or an error, never a
//! panic, and never an allocation out of proportion to the frame.
//!
//! The vocabulary ([`Limits`], [`Layer`], [`Report`]) is also the sandbox's and the public API's
//! own, so that nothing is translated on the way. The schema is frozen by `tests/schema.rs`:
//! whoever changes it changes [`VERSION`].
//!
//! This crate does no I/O and contains no unsafe code.

#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

pub mod frame;
mod hello;
mod layer;
mod limits;
mod message;
mod report;
mod supervise;

pub use hello::{Capabilities, Hello, HelloError, MAGIC, VERSION};
pub use layer::{Layer, LayerState, LayerStatus, UnknownLayer};
pub use limits::{Limits, Network};
pub use message::{
    CHUNK, COLLECT_BYTES, COLLECT_FILES, ControlReply, ControlRequest, Exec, Failure, FailureKind,
    FileEntry, FromAgent, INLINE_FILES, STDIN_WINDOW, TerminalSize, ToAgent, Uncollected, chain,
};
pub use report::{Ended, Report, Violation};
pub use serde_bytes::ByteBuf;
pub use supervise::{Decision, Operation, Question, Supervision, UnknownOperation};

/// vsock ports of the protocol. All lie above 1023, which Linux reserves for privileged callers.
pub mod port {
    /// On the host: the agent connects here once it accepts executions.
    pub const READY: u32 = 1024;
    /// In the guest: one connection per execution.
    pub const EXEC: u32 = 1025;
    /// In the guest: health, clock, metrics, shutdown.
    pub const CONTROL: u32 = 1026;
}
