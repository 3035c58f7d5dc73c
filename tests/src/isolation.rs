//! Where a scenario runs, and whether this machine can.

use crate::process;
use std::path::PathBuf;

/// Where a scenario runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// The Linux sandbox, called by whoever runs the tests.
    Process,
    /// The Linux sandbox, called by an ordinary user.
    ProcessUser,
    /// The Linux sandbox, called by an ordinary user whom the kernel refuses every namespace, as in
    /// most containers: only the required layers hold.
    ProcessBare,
    /// The same sandbox inside a VM under QEMU.
    Vm,
}

/// Whether an isolation can be had here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// Yes.
    Yes,
    /// No, and that is fine: the reason, to be shown and counted.
    Skipped(String),
    /// No, although whoever started the tests demanded it.
    Failed(String),
}

/// The user in whose name ringfence runs where the tests run as root.
pub(crate) const USER: u32 = 54321;

impl Isolation {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Process,
        Self::ProcessUser,
        Self::ProcessBare,
        Self::Vm,
    ];

    /// Those on this kernel.
    pub const ON_THIS_KERNEL: [Self; 3] = [Self::Process, Self::ProcessUser, Self::ProcessBare];

    /// The name in the list of tests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::ProcessUser => "process-user",
            Self::ProcessBare => "process-bare",
            Self::Vm => "vm",
        }
    }

    /// What `--json` calls it.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Vm => "vm",
            _ => "process",
        }
    }

    /// The options that choose it.
    #[must_use]
    pub const fn options(self) -> &'static [&'static str] {
        match self {
            Self::Vm => &["--isolation", "vm", "--engine", "qemu"],
            _ => &["--isolation", "process"],
        }
    }

    /// The architecture of programs in it, as Rust and the kernel call it.
    #[must_use]
    pub const fn machine(self) -> &'static str {
        match self {
            Self::Vm => "aarch64",
            _ => std::env::consts::ARCH,
        }
    }

    /// The user that calls ringfence; nothing where it is whoever runs the tests.
    #[must_use]
    pub fn user(self) -> Option<u32> {
        let other = matches!(self, Self::ProcessUser | Self::ProcessBare);
        (other && process::is_root()).then_some(USER)
    }

    /// Whether it can be had here.
    #[must_use]
    pub fn availability(self) -> Availability {
        match self {
            Self::Process | Self::ProcessBare => Availability::Yes,
            Self::ProcessUser if process::is_root() => Availability::Yes,
            Self::ProcessUser => {
                Availability::Skipped("the tests run as an ordinary user already".into())
            }
            Self::Vm => match missing_for_vm() {
                None => Availability::Yes,
                Some(reason) if demanded() => Availability::Failed(reason),
                Some(reason) => Availability::Skipped(reason),
            },
        }
    }
}

/// Whether a VM that is not there is a failure.
fn demanded() -> bool {
    std::env::var_os("RINGFENCE_TEST_REQUIRE_VM").is_some_and(|value| value == "1")
}

fn missing_for_vm() -> Option<String> {
    if process::find_program("qemu-system-aarch64").is_none() {
        return Some("no qemu-system-aarch64; install Debian's package qemu-system-arm".into());
    }
    let image = image_directory();
    (!image.join("manifest.json").is_file()).then(|| {
        format!(
            "no image in {}; run cargo xtask build-image",
            image.display()
        )
    })
}

/// The directory of the guest image, as the command finds it.
pub(crate) fn image_directory() -> PathBuf {
    if let Some(directory) = std::env::var_os("RINGFENCE_IMAGE") {
        return directory.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = cache.or_else(home).unwrap_or_default();
    cache.join("ringfence").join("image").join("aarch64")
}
