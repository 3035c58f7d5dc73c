//! The guest's kernel: built from source, or taken from Debian.

pub(crate) mod config;
pub(crate) mod prebuilt;
pub(crate) mod source;

pub use config::ConfigError;
pub use prebuilt::PrebuiltError;
pub use source::SourceError;

/// Where an arm64 `Image` says what it is.
const MAGIC_AT: usize = 0x38;

/// Whether these bytes begin like an uncompressed arm64 kernel.
fn is_image(bytes: &[u8]) -> bool {
    bytes
        .get(MAGIC_AT..)
        .is_some_and(|rest| rest.starts_with(b"ARM\x64"))
}
