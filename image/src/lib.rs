//! The guest image of ringfence: a kernel, an initramfs with the agent, and a read-only root file
//! system, described by a manifest of SHA-256 digests.
//!
//! Without features this crate only finds, opens and verifies images; that is all a program needs
//! to run one. With the feature `build` it also makes them (`build::run`), from Debian packages.
//!
//! Who is trusted: the user who owns the image directory. The manifest is checked all the same,
//! so that a damaged or half-written image is an error with a name and never a guest that
//! misbehaves: names stay inside the directory, and [`Image::verify`] compares every byte.
//!
//! A new image replaces the old one by one rename of `manifest.json`. The files that it names
//! carry their digest in their name, so that whoever opened the previous image still has it whole.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod arch;
#[cfg(feature = "build")]
pub mod build;
mod digest;
mod error;
mod manifest;
mod store;

pub use arch::{Arch, UnknownArch};
pub use digest::{Digest, InvalidDigest};
pub use error::Error;
pub use manifest::{Entry, FORMAT, MANIFEST, Manifest};
pub use store::{ENV_DIRECTORY, Image, Listed, cache_directory, default_directory, list};
