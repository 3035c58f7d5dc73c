//! Where a program's standard streams lead.

use std::fs::File;

/// Where one of a program's standard streams leads, as in [`std::process::Stdio`].
///
/// The program never gets a descriptor of the caller's: whatever is chosen here is at the other
/// end of a pipe, so that it can neither seek, nor change modes, nor reach a terminal.
#[derive(Debug, Default)]
pub struct Stdio(pub(crate) Kind);

#[derive(Debug, Default)]
pub(crate) enum Kind {
    #[default]
    Null,
    Piped,
    Inherit,
    File(File),
}

impl Stdio {
    /// Nothing: input ends at once, output is dropped (and still counts against the limit).
    #[must_use]
    pub const fn null() -> Self {
        Self(Kind::Null)
    }

    /// A pipe to the [`Child`](crate::Child).
    #[must_use]
    pub const fn piped() -> Self {
        Self(Kind::Piped)
    }

    /// Copied from or to the caller's own stream.
    #[must_use]
    pub const fn inherit() -> Self {
        Self(Kind::Inherit)
    }
}

impl From<File> for Stdio {
    /// Copied from or to this file, from its current position.
    fn from(file: File) -> Self {
        Self(Kind::File(file))
    }
}
