//! What a layer that is missing, or in force but for a part, costs beyond itself, in words.

use crate::identity::caller;
use crate::{Layer, LayerState, LayerStatus, confine};
use std::io;

/// Says what the lack of a private root or of other namespaces costs beyond itself where the kernel
/// gave no notifications.
pub(crate) fn tell_unmediated(layers: &mut [LayerState], errno: i32) {
    let reason = io::Error::from_raw_os_error(errno);
    let lacks = |layer| {
        let mut states = layers.iter();
        states.any(|state| state.layer == layer && !state.is_active())
    };
    let mut calls = Vec::new();
    if lacks(Layer::MountNs) {
        calls.push("changes of modes, owners, times and extended attributes");
        calls.push("connections to Unix sockets");
    }
    if lacks(Layer::NetNs) {
        calls.push("names of Unix sockets");
    }
    let told = if lacks(Layer::MountNs) {
        Layer::MountNs
    } else {
        Layer::NetNs
    };
    let refused = format!(
        "{} are refused, also in the workspace,",
        calls.join(" and ")
    );
    let signals = "signals but to the own process group are refused, also to other threads,";
    let costs = |refused: &str| {
        format!(
            "; {refused} because the kernel gave no notifications of system calls ({reason}): a \
             filter around this process may have a listener already"
        )
    };
    // Root gives the program a user of its own.
    let open = !confine::confines_signals() && caller().is_ok_and(|caller| !caller.is_root());
    for state in layers {
        let LayerStatus::Missing { why } = &mut state.status else {
            continue;
        };
        if state.layer == told {
            why.push_str(&costs(&refused));
        }
        if state.layer == Layer::PidNs && open {
            why.push_str(&costs(signals));
        }
    }
}

/// Says beside a mount namespace that is in force what it is in force without.
pub(crate) fn tell_no_proc(layers: &mut Vec<LayerState>, errno: i32) {
    let reason = io::Error::from_raw_os_error(errno);
    let why = format!(
        "a part of it, while the rest is in force: /proc is empty, and what the supervisor would do \
         on the program's behalf is refused, because the kernel gave the sandbox no /proc of its \
         own ({reason}). Container runtimes cover parts of theirs, which has this effect: give the \
         container an uncovered one (docker: --security-opt systempaths=unconfined; Kubernetes: \
         procMount: Unmasked)"
    );
    let place = layers
        .iter()
        .position(|state| state.layer == Layer::MountNs);
    let place = place.map_or(layers.len(), |place| place + 1);
    layers.insert(place, LayerState::missing(Layer::MountNs, why));
}
