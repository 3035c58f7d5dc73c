//! What this machine can do.

use crate::{Layer, LayerState, SpawnError, Spec, confine, spawn};

/// What this machine can do: each layer, available or missing with the reason and how to get it.
///
/// It runs the smallest program in a sandbox with everything that can be had, because only the
/// attempt tells what the kernel grants.
#[must_use]
pub fn probe() -> Vec<LayerState> {
    let finished = spawn(Spec::new("true")).map(|running| running.wait());
    let mut states = match finished {
        Ok(Ok(finished)) => finished.report.layers,
        Ok(Err(error)) => unknown(&error.to_string(), None),
        Err(SpawnError::LayerUnavailable { layer, why }) => unknown(&why, Some(layer)),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            unknown(&format!("{error}: {}", cause.unwrap_or_default()), None)
        }
    };
    let kernel = "the sandbox of this kernel is not a virtual machine; the isolation vm is";
    states.push(LayerState::missing(Layer::Vm, kernel));
    states
}

/// Nothing could be run: the layer that prevented it, and the others for want of a try.
fn unknown(why: &str, culprit: Option<Layer>) -> Vec<LayerState> {
    let layers = Layer::ALL.into_iter().filter(|layer| *layer != Layer::Vm);
    let state = |layer| {
        if culprit == Some(layer) {
            return LayerState::missing(layer, why);
        }
        if layer == Layer::Landlock && confine::missing().is_none() {
            return LayerState::active(layer);
        }
        LayerState::missing(
            layer,
            format!("no sandbox could be started to try it: {why}"),
        )
    };
    layers.map(state).collect()
}
