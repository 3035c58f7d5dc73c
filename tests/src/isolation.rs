//! Where a scenario runs, and whether this machine can.

use crate::process;
use std::path::{Path, PathBuf};

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
    /// As [`Self::ProcessBare`], called by root, as in most containers of a build or test service.
    ProcessBareRoot,
    /// The same sandbox inside a VM, under the engine of [`engine`].
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
    pub const ALL: [Self; 5] = [
        Self::Process,
        Self::ProcessUser,
        Self::ProcessBare,
        Self::ProcessBareRoot,
        Self::Vm,
    ];

    /// Those on this kernel.
    pub const ON_THIS_KERNEL: [Self; 4] = [
        Self::Process,
        Self::ProcessUser,
        Self::ProcessBare,
        Self::ProcessBareRoot,
    ];

    /// The name in the list of tests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::ProcessUser => "process-user",
            Self::ProcessBare => "process-bare",
            Self::ProcessBareRoot => "process-bare-root",
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
    pub fn options(self) -> Vec<String> {
        let cpus = cpus().to_string();
        let words: &[&str] = match self {
            Self::Vm => &["--isolation", "vm", "--engine", &engine(), "--cpus", &cpus],
            _ => &["--isolation", "process"],
        };
        words.iter().map(|&word| word.into()).collect()
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

    /// Whether every namespace is refused, so that only the required layers hold.
    #[must_use]
    pub const fn is_bare(self) -> bool {
        matches!(self, Self::ProcessBare | Self::ProcessBareRoot)
    }

    /// Whether it can be had here.
    #[must_use]
    pub fn availability(self) -> Availability {
        match self {
            Self::Process | Self::ProcessBare => Availability::Yes,
            Self::ProcessUser | Self::ProcessBareRoot if process::is_root() => Availability::Yes,
            Self::ProcessUser => {
                Availability::Skipped("the tests run as an ordinary user already".into())
            }
            Self::ProcessBareRoot => Availability::Skipped("the tests do not run as root".into()),
            Self::Vm => match missing_for_vm() {
                None => Availability::Yes,
                Some(reason) if demanded() => Availability::Failed(reason),
                Some(reason) => Availability::Skipped(reason),
            },
        }
    }
}

/// The engine that VMs are tested on.
#[must_use]
pub fn engine() -> String {
    std::env::var("RINGFENCE_TEST_ENGINE").unwrap_or_else(|_| "qemu".into())
}

/// The virtual processors that VMs are tested with.
///
/// # Panics
/// When the variable holds no number.
#[must_use]
pub fn cpus() -> u8 {
    let cpus = std::env::var("RINGFENCE_TEST_CPUS");
    cpus.map_or(1, |cpus| cpus.parse().unwrap())
}

/// Whether a VM that is not there is a failure.
fn demanded() -> bool {
    std::env::var_os("RINGFENCE_TEST_REQUIRE_VM").is_some_and(|value| value == "1")
}

fn missing_for_vm() -> Option<String> {
    let (engine, qemu) = (engine(), "qemu-system-aarch64");
    if engine == "qemu" && process::find_program(qemu).is_none() {
        return Some(format!(
            "no {qemu}; install Debian's package qemu-system-arm"
        ));
    }
    if engine == "kvm" && !Path::new("/dev/kvm").exists() {
        return Some("no /dev/kvm".into());
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
