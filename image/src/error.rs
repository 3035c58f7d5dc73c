//! What can be wrong with an image.

use crate::{Digest, FORMAT};
use std::io;
use std::path::PathBuf;

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no image where one was looked for.
    #[error(
        "no guest image in {}; build one with `ringfence image build` or `cargo xtask build-image`",
        directory.display()
    )]
    Missing {
        /// The directory that was looked into.
        directory: PathBuf,
    },
    /// Neither `RINGFENCE_IMAGE` nor a cache directory is known.
    #[error("no cache directory is known; set HOME, XDG_CACHE_HOME or RINGFENCE_IMAGE")]
    NoDirectory,
    /// The manifest is no manifest: cut short, not JSON, or a field is missing or of the wrong kind.
    #[error("the manifest {} is damaged; build the image again", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What the parser met.
        source: serde_json::Error,
    },
    /// The manifest is larger than any manifest.
    #[error("the manifest {} has more than {limit} bytes; build the image again", path.display())]
    ManifestSize {
        /// The manifest.
        path: PathBuf,
        /// The largest size allowed.
        limit: u64,
    },
    /// The manifest is of another version of the format.
    #[error(
        "the manifest {} has format {found}, this program reads {FORMAT}; build the image again",
        path.display()
    )]
    Format {
        /// The manifest.
        path: PathBuf,
        /// The version that was found.
        found: u32,
    },
    /// The manifest names a file that is not directly inside the image's directory.
    #[error("the manifest {} names the file `{name}`, which is not a plain name", path.display())]
    FileName {
        /// The manifest.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// A file of the image is absent, or is not a regular file.
    #[error("the image's file {} is missing; build the image again", path.display())]
    FileMissing {
        /// The file.
        path: PathBuf,
    },
    /// A file of the image has another length than the manifest says.
    #[error(
        "the image's file {} has {found} bytes, the manifest says {expected}; build the image again",
        path.display()
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// What the manifest says.
        expected: u64,
        /// What was found.
        found: u64,
    },
    /// A file of the image has another digest than the manifest says.
    #[error(
        "the image's file {} has SHA-256 {found}, the manifest says {expected}; \
         build the image again",
        path.display()
    )]
    Digest {
        /// The file.
        path: PathBuf,
        /// What the manifest says.
        expected: Digest,
        /// What was found.
        found: Digest,
    },
    /// The file system refused.
    #[error("cannot read {}", path.display())]
    Read {
        /// What could not be read.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
