//! Builds an image from Debian packages.
//!
//! | part | made of |
//! |---|---|
//! | kernel | `linux-source`, compiled with the fragment in `kernel/`; or `linux-image` as it is |
//! | initramfs | the agent, and the modules of a packaged kernel |
//! | root file system | the packages of `initramfs/rootfs.list` and what they need |
//! | the lab's tools, no part of the image | those of `tests/lab-init/tools.list` |
//!
//! Every package is checked against the lock file, or against an index that the archive signed.
//! Results of steps are kept in the cache directory by the digest of their inputs. The finished
//! image replaces the previous one at the very end, by one rename; any error before leaves that as
//! it was.
//!
//! What is rejected: `apt-get`, `debootstrap`, `mksquashfs`, `cpio`, because a Mac has none of
//! them, and because what they write depends on their version.

mod archive;
mod artefact;
mod deb;
mod fetch;
mod files;
mod initramfs;
mod kernel;
mod lock;
mod packages;
mod plan;
mod progress;
mod publish;
mod release;
mod rootfs;
mod signature;
mod sources;
mod steps;
#[cfg(test)]
mod tests;
mod tree;
mod wanted;

pub use archive::ArchiveError;
pub use deb::DebError;
pub use fetch::FetchError;
pub use files::FileError;
pub use initramfs::AgentError;
pub use kernel::source::KERNEL_BUILD_PACKAGES;
pub use kernel::{ConfigError, PrebuiltError, SourceError};
pub use lock::LockError;
pub use packages::PackagesError;
pub use plan::PlanError;
pub use progress::Progress;
pub use publish::PublishError;
pub use release::ReleaseError;
pub use rootfs::RootfsError;
pub use signature::SignatureError;
pub use sources::{ENV_KEYRING, ENV_MIRROR, SourcesError};
pub use tree::TreeError;
pub use wanted::WantedError;

use crate::{Arch, Digest, Image, cache_directory};
use std::env;
use std::path::{self, PathBuf};

/// The environment variable that names the folder for downloads and results of steps.
pub const ENV_CACHE: &str = "RINGFENCE_CACHE";

/// The folder for downloads and results of steps: that of [`ENV_CACHE`], or one in the user's cache.
///
/// # Errors
/// [`Error::Image`] when neither `HOME` nor another variable names a directory.
pub fn cache() -> Result<PathBuf, Error> {
    match env::var_os(ENV_CACHE).filter(|value| !value.is_empty()) {
        Some(folder) => {
            let folder = PathBuf::from(folder);
            Ok(path::absolute(&folder).unwrap_or(folder))
        }
        None => Ok(cache_directory()?.join("build")),
    }
}

/// Where the guest's kernel comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Compiled from Debian's source with our own options: small, quick to boot. Needs Linux.
    Source,
    /// Debian's build for clouds: needs no compiler.
    Prebuilt,
}

impl Default for Kernel {
    /// From source where it can be compiled.
    fn default() -> Self {
        if cfg!(target_os = "linux") {
            Self::Source
        } else {
            Self::Prebuilt
        }
    }
}

/// What happens when the lock file does not hold any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LockMode {
    /// A pinned version that has left the mirror is replaced by the suite's current one, with a
    /// warning.
    #[default]
    Prefer,
    /// It is an error.
    Locked,
    /// The suite's current versions are taken throughout and written to the lock file.
    Update,
}

/// What to build, from where, and where to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// Architecture of the guest.
    pub arch: Arch,
    /// The agent: a static program for the guest.
    pub agent: PathBuf,
    /// Where the kernel comes from.
    pub kernel: Kernel,
    /// What to do about the lock file.
    pub lock: LockMode,
    /// The lock file; without one the lock that this program was built with is used.
    pub lock_file: Option<PathBuf>,
    /// The mirror of Debian's archive, `MAIN` or `MAIN,SECURITY`; without one that of
    /// `RINGFENCE_MIRROR` or of apt's configuration.
    pub mirror: Option<String>,
    /// The archive's keys; without them those of `RINGFENCE_KEYRING`, of apt's configuration or of
    /// the pinned package.
    pub keyring: Option<PathBuf>,
    /// Folder of the image; the user's cache directory unless said.
    pub output: Option<PathBuf>,
    /// Folder for downloads and results of steps; that of `RINGFENCE_CACHE` or the user's cache
    /// directory unless said.
    pub cache: Option<PathBuf>,
    /// Makes every part once more from the same inputs and demands the same bytes.
    pub compare: bool,
    /// Who is told how far it is.
    pub progress: Progress,
}

impl Options {
    /// The defaults of this machine, with this agent.
    pub fn new(agent: impl Into<PathBuf>) -> Self {
        Self {
            arch: Arch::Aarch64,
            agent: agent.into(),
            kernel: Kernel::default(),
            lock: LockMode::default(),
            lock_file: None,
            mirror: None,
            keyring: None,
            output: None,
            cache: None,
            compare: false,
            progress: Progress::default(),
        }
    }
}

/// Why an image could not be built. The previous one is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No mirror is known.
    #[error(transparent)]
    Sources(#[from] SourcesError),
    /// The list of packages is wrong.
    #[error(transparent)]
    Wanted(#[from] WantedError),
    /// The lock file is damaged.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// There is no lock file to be updated.
    #[error("there is no lock file to be updated outside of a checkout of the repository")]
    NoLockFile,
    /// The packages cannot be had.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A file or folder cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The agent is no program for the guest.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The root file system cannot be made.
    #[error("the root file system cannot be made")]
    Rootfs(#[from] RootfsError),
    /// The initramfs cannot be made.
    #[error("the initramfs cannot be made")]
    Initramfs(#[source] TreeError),
    /// The kernel cannot be compiled.
    #[error("the kernel cannot be compiled")]
    Source(#[from] SourceError),
    /// The packaged kernel cannot be used.
    #[error("the packaged kernel cannot be used")]
    Prebuilt(#[from] PrebuiltError),
    /// The same inputs gave other bytes.
    #[error("the {part} made twice from the same inputs has SHA-256 {first} and {second}")]
    Differs {
        /// Which part.
        part: &'static str,
        /// Digest of the first.
        first: Digest,
        /// Digest of the second.
        second: Digest,
    },
    /// The finished image cannot be put in its place.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// No folder for the image is known, or the finished image is not whole.
    #[error(transparent)]
    Image(#[from] crate::Error),
}

/// Builds an image and puts it in its place.
///
/// # Errors
/// [`Error`] says what failed and what to do; the previous image is then as it was.
pub fn run(options: &Options) -> Result<Image, Error> {
    steps::run(options)
}

/// What the lab boots, in the folder of results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabParts {
    /// Debian's kernel, an uncompressed `Image` with KVM.
    pub kernel: PathBuf,
    /// The modules of `kernel/lab-modules.list`, and the agent of the options as `/init`.
    pub initramfs: PathBuf,
}

/// Makes what the lab boots: a machine in which VMs of the image are tested. No image is touched.
///
/// # Errors
/// [`Error`] says what failed and what to do.
pub fn lab(options: &Options) -> Result<LabParts, Error> {
    steps::lab(options)
}

/// Makes the squashfs of the lab's tools, in the folder of results: QEMU for arm64, and the libraries
/// that it needs besides those of the image's root file system. No image is touched.
///
/// # Errors
/// [`Error`] says what failed and what to do.
pub fn lab_tools(options: &Options) -> Result<PathBuf, Error> {
    steps::lab_tools(options)
}
