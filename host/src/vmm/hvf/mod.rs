//! Engine `hvf`: Hypervisor.framework on Apple silicon.
//!
//! | module | role |
//! |---|---|
//! | [`contract`] | the framework's rules for one processor, as a trait |
//! | `syndrome` | why the guest exited, decoded |
//! | `psci` | processors and machine on and off |
//! | `sysreg` | system registers that trap |
//! | `doorbell` | what idle processors sleep on |
//!
//! # Trust
//! Syndromes, addresses and registers are the guest's. Code that they reach never panics and never
//! computes unchecked; what one exit makes this side do, allocate or log is bounded.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used
)]

pub(crate) mod contract;
pub(crate) mod doorbell;
pub(crate) mod psci;
mod syndrome;
mod sysreg;
