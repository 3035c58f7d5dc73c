//! Which engine runs the VM, and which could.

use crate::Engine;
use crate::doctor::EngineState;
use crate::vmm::{self, Booted, MachineConfig, MachineError};

/// What [`Engine::Auto`] stands for on this machine.
pub(super) fn pick(engine: Engine) -> Engine {
    match engine {
        Engine::Auto if cfg!(target_os = "macos") => Engine::Hvf,
        Engine::Auto if problem(Engine::Kvm).is_none() => Engine::Kvm,
        Engine::Auto => Engine::Qemu,
        chosen => chosen,
    }
}

pub(super) const fn label(engine: Engine) -> &'static str {
    match engine {
        Engine::Auto => "engine auto",
        Engine::Hvf => "engine hvf",
        Engine::Kvm => "engine kvm",
        Engine::Qemu => "engine qemu",
    }
}

/// Boots a guest on an engine that [`problem`] has nothing against.
pub(super) fn boot(engine: Engine, config: MachineConfig) -> Result<Booted, MachineError> {
    match engine {
        #[cfg(target_os = "linux")]
        Engine::Qemu => vmm::boot_qemu(config),
        Engine::Hvf => vmm::boot_own("hvf", &config),
        _ => vmm::boot_own("kvm", &config),
    }
}

/// Why an engine cannot be used here.
pub(super) fn problem(engine: Engine) -> Option<String> {
    match engine {
        Engine::Hvf => vmm::hvf_problem(),
        Engine::Kvm => vmm::kvm_problem(),
        #[cfg(target_os = "linux")]
        _ => vmm::find_qemu().err().map(|error| error.to_string()),
        #[cfg(not(target_os = "linux"))]
        _ => Some("engine qemu is for Linux".into()),
    }
}

/// Every engine and whether it can be used here.
pub(crate) fn states() -> Vec<EngineState> {
    let engines = [Engine::Hvf, Engine::Kvm, Engine::Qemu];
    engines
        .map(|engine| EngineState {
            engine,
            problem: problem(engine),
        })
        .into()
}
