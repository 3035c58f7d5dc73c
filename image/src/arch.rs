//! The architectures a guest can have.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The architecture of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Arch {
    /// 64-bit ARM.
    Aarch64,
}

impl Arch {
    /// Every architecture.
    pub const ALL: [Self; 1] = [Self::Aarch64];

    /// The name as `uname -m` and Rust have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aarch64 => "aarch64",
        }
    }

    /// The name as Debian has it.
    #[must_use]
    pub const fn debian(self) -> &'static str {
        match self {
            Self::Aarch64 => "arm64",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no architecture of a guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no guest of architecture `{0}`; there is aarch64")]
pub struct UnknownArch(String);

impl FromStr for Arch {
    type Err = UnknownArch;

    fn from_str(text: &str) -> Result<Self, UnknownArch> {
        Self::ALL
            .into_iter()
            .find(|arch| arch.name() == text || arch.debian() == text)
            .ok_or_else(|| UnknownArch(text.to_owned()))
    }
}
