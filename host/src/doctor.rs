//! What this machine can do.

use crate::Engine;
use ringfence_protocol::{Layer, LayerState};
use std::path::PathBuf;

/// Whether an engine can run a VM here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineState {
    /// Which engine.
    pub engine: Engine,
    /// Why it cannot, and the way out; `None` when it can.
    pub problem: Option<String>,
}

/// What [`doctor`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The layers of process isolation, with reasons where one is missing. Empty where there is no
    /// Linux.
    pub layers: Vec<LayerState>,
    /// The engines that could run a VM.
    pub engines: Vec<EngineState>,
    /// The folder of a verified guest image, or what is wrong.
    pub image: Result<PathBuf, String>,
}

impl Diagnosis {
    /// Whether programs can run in [`Isolation::Process`](crate::Isolation::Process).
    #[must_use]
    pub fn process_usable(&self) -> bool {
        let active = |layer: &Layer| {
            self.layers
                .iter()
                .any(|state| state.layer == *layer && state.is_active())
        };
        Layer::REQUIRED.iter().all(active)
    }

    /// Whether programs can run in [`Isolation::Vm`](crate::Isolation::Vm).
    #[must_use]
    pub fn vm_usable(&self) -> bool {
        self.image.is_ok() && self.engines.iter().any(|state| state.problem.is_none())
    }
}

/// Looks at this machine. Starts no VM; the image is verified in full.
#[must_use]
pub fn doctor() -> Diagnosis {
    Diagnosis {
        layers: crate::backend::layers(),
        engines: crate::backend::engine_states(),
        image: crate::backend::image_state(),
    }
}
