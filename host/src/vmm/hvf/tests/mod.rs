//! The run loop over a processor that plays a script: no hypervisor, any host.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "tests may fail"
)]

mod exits;
mod idle;
mod threads;

use super::contract::{HvError, HvExit, SystemRegister};
use super::doorbell::Doorbells;
use super::run::HvfVcpu;
use super::testing::*;
use std::sync::Arc;
