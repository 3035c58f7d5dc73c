//! Engine `hvf`: Hypervisor.framework on Apple silicon.
//!
//! | module | role |
//! |---|---|
//! | [`contract`] | the framework's rules for one processor, as a trait |
//! | `apple` | the trait on the framework itself, on Macs |
//! | `over_kvm` | the trait on KVM, for the lab |
//! | `run` | the loop of one processor over that trait |
//! | `idle` | what it does while the guest waits |
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

#[cfg(all(target_os = "macos", target_arch = "aarch64"))]
mod apple;
pub(crate) mod contract;
pub(crate) mod doorbell;
mod idle;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod misbehave;
#[cfg(all(feature = "hvf-over-kvm", target_os = "linux", target_arch = "aarch64"))]
mod over_kvm;
mod psci;
mod run;
mod syndrome;
mod sysreg;
#[cfg(any(test, feature = "fuzzing"))]
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the tests use more of it than the fuzz targets")
)]
mod testing;
#[cfg(test)]
mod tests;

#[cfg(all(target_os = "macos", target_arch = "aarch64"))]
pub(crate) use apple::{HvfVm, problem};
#[cfg(all(feature = "hvf-over-kvm", target_os = "linux", target_arch = "aarch64"))]
pub(crate) use over_kvm::{OverKvm as HvfVm, problem};

use super::devices::bus::Bus;
use super::machine::{EngineError, Start};
use super::vcpus::{VcpuThreads, Vcpus};
use contract::{HvError, HvVcpu};
use doorbell::Doorbells;
use psci::{Entry, Power};
use run::{HvfVcpu, Shared};
use std::sync::Arc;

impl From<HvError> for EngineError {
    fn from(error: HvError) -> Self {
        if error.is_denied() {
            Self::denied(error)
        } else {
            Self::new(error)
        }
    }
}

/// Creates the processors of a machine, each on its thread and in the order of their numbers, and
/// lets them run once all are there and `complete` has been called. Devices' lines ring `doorbells`, of which there is one for each processor.
///
/// # Errors
/// The first of `create`, of the framework or of the operating system. No thread is left.
pub(crate) fn start_vcpus<V: HvVcpu>(
    vcpus: &Arc<Vcpus>,
    bus: &Arc<Bus>,
    start: Start,
    doorbells: &Arc<Doorbells>,
    create: impl Fn(u8) -> Result<V, HvError> + Send + Sync + 'static,
    complete: impl FnOnce() -> Result<(), EngineError>,
) -> Result<VcpuThreads, EngineError> {
    let shared = Shared {
        bus: Arc::clone(bus),
        power: Power::new(doorbells),
        doorbells: Arc::clone(doorbells),
    };
    let entry = Entry {
        address: start.entry,
        context: start.fdt,
    };
    let create = move |index| {
        let vcpu = create(index)?;
        let vcpu = HvfVcpu::new(index, vcpu, shared.clone(), entry)?;
        Ok::<_, EngineError>(vcpu)
    };
    VcpuThreads::start(vcpus, create, complete)
}
