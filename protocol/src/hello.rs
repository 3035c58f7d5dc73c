//! The first frame of every connection, both ways.

use serde::{Deserialize, Serialize};

/// Marks a connection as ringfence's.
pub const MAGIC: u32 = u32::from_le_bytes(*b"RFNC");

/// Version of the schema. Both sides must have the same.
pub const VERSION: u16 = 3;

/// Optional abilities of a side, as bits. Unknown bits are ignored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities(pub u64);

/// Opens a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`VERSION`] of the sender.
    pub version: u16,
    /// What the sender can do beyond the version's minimum.
    pub capabilities: Capabilities,
}

/// Why a peer's [`Hello`] was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// The peer is not ringfence.
    #[error("the peer does not speak ringfence's protocol (magic {0:#010x})")]
    Magic(u32),
    /// The peer is of another version.
    #[error(
        "the peer speaks protocol version {theirs}, this side {VERSION}; \
         build the image and the command from the same release"
    )]
    Version {
        /// The peer's version.
        theirs: u16,
    },
}

impl Hello {
    /// This side's greeting.
    #[must_use]
    pub const fn ours() -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            capabilities: Capabilities(0),
        }
    }

    /// Checks the peer's greeting and returns what the peer can do.
    ///
    /// # Errors
    /// [`HelloError`] when the peer is something else or of another version.
    pub const fn check(self) -> Result<Capabilities, HelloError> {
        if self.magic != MAGIC {
            return Err(HelloError::Magic(self.magic));
        }
        if self.version != VERSION {
            return Err(HelloError::Version {
                theirs: self.version,
            });
        }
        Ok(self.capabilities)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_version_is_accepted() {
        assert_eq!(Hello::ours().check(), Ok(Capabilities(0)));
        let other = Hello {
            magic: 7,
            ..Hello::ours()
        };
        assert_eq!(other.check(), Err(HelloError::Magic(7)));
        let newer = Hello {
            version: VERSION + 1,
            ..Hello::ours()
        };
        assert_eq!(
            newer.check(),
            Err(HelloError::Version {
                theirs: VERSION + 1
            })
        );
    }
}
