//! The mechanisms that confine a program.

use alloc::string::String;
use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// One mechanism that confines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Layer {
    /// Landlock: which files, sockets and signals the program reaches.
    Landlock,
    /// A seccomp filter: which system calls the program may make.
    Seccomp,
    /// `no_new_privs`: no gain through set-uid programs.
    NoNewPrivs,
    /// All capabilities dropped.
    Capabilities,
    /// Resource limits by `setrlimit`.
    Rlimits,
    /// A control group of its own: memory, processes, CPU.
    Cgroup,
    /// A user namespace.
    UserNs,
    /// A mount namespace with a private root.
    MountNs,
    /// A process namespace.
    PidNs,
    /// A network namespace without a way out.
    NetNs,
    /// A namespace for System V IPC and POSIX message queues.
    IpcNs,
    /// A host name of its own.
    UtsNs,
    /// A virtual machine with a kernel of its own.
    Vm,
}

impl Layer {
    /// Every layer, in the order of reports.
    pub const ALL: [Self; 13] = [
        Self::Landlock,
        Self::Seccomp,
        Self::NoNewPrivs,
        Self::Capabilities,
        Self::Rlimits,
        Self::Cgroup,
        Self::UserNs,
        Self::MountNs,
        Self::PidNs,
        Self::NetNs,
        Self::IpcNs,
        Self::UtsNs,
        Self::Vm,
    ];

    /// The layers without which nothing runs.
    pub const REQUIRED: [Self; 5] = [
        Self::Landlock,
        Self::Seccomp,
        Self::NoNewPrivs,
        Self::Capabilities,
        Self::Rlimits,
    ];

    /// The name as the command line and the JSON report spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
            Self::NoNewPrivs => "no_new_privs",
            Self::Capabilities => "capabilities",
            Self::Rlimits => "rlimits",
            Self::Cgroup => "cgroup",
            Self::UserNs => "user_ns",
            Self::MountNs => "mount_ns",
            Self::PidNs => "pid_ns",
            Self::NetNs => "net_ns",
            Self::IpcNs => "ipc_ns",
            Self::UtsNs => "uts_ns",
            Self::Vm => "vm",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no such layer; the layers are landlock, seccomp, no_new_privs, capabilities, rlimits, \
         cgroup, user_ns, mount_ns, pid_ns, net_ns, ipc_ns, uts_ns and vm"
)]
pub struct UnknownLayer;

impl FromStr for Layer {
    type Err = UnknownLayer;

    fn from_str(text: &str) -> Result<Self, UnknownLayer> {
        Self::ALL
            .into_iter()
            .find(|layer| layer.name() == text)
            .ok_or(UnknownLayer)
    }
}

/// Whether a layer confined an execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LayerStatus {
    /// The layer was in force before the program's first instruction.
    Active,
    /// The layer was not in force.
    Missing {
        /// The reason, for people: what is missing and how to get it.
        why: String,
    },
}

/// A layer and whether it was in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerState {
    /// Which layer.
    pub layer: Layer,
    /// Whether it was in force.
    pub status: LayerStatus,
}

impl LayerState {
    /// The layer was in force.
    #[must_use]
    pub const fn active(layer: Layer) -> Self {
        Self {
            layer,
            status: LayerStatus::Active,
        }
    }

    /// The layer was not in force, and why.
    #[must_use]
    pub fn missing(layer: Layer, why: impl Into<String>) -> Self {
        Self {
            layer,
            status: LayerStatus::Missing { why: why.into() },
        }
    }

    /// Whether the layer was in force.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        matches!(self.status, LayerStatus::Active)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn names_are_read_back() {
        for layer in Layer::ALL {
            assert_eq!(layer.to_string().parse(), Ok(layer));
        }
        assert_eq!("sgx".parse::<Layer>(), Err(UnknownLayer));
    }
}
