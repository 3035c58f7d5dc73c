//! What the probe inside the sandbox and the tests outside must agree on.

use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::io::{self, Read};

/// An endless stream of bytes in which no block is like another, the same on every machine: what
/// is lost, doubled or out of order in it changes its digest.
#[derive(Debug, Clone)]
pub struct Pattern {
    state: u64,
    left: u64,
}

impl Pattern {
    /// A stream of `len` bytes, a multiple of 8 or the last few are left out.
    #[must_use]
    pub const fn new(len: u64) -> Self {
        Self {
            state: 0,
            left: len,
        }
    }

    /// SplitMix64.
    const fn step(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        for word in buffer.chunks_exact_mut(8) {
            if self.left < 8 {
                break;
            }
            word.copy_from_slice(&self.step().to_le_bytes());
            self.left -= 8;
            filled += 8;
        }
        Ok(filled)
    }
}

/// Length and SHA-256 of everything that a reader gives, as `LENGTH HEX`.
///
/// # Errors
/// When reading fails.
pub fn digest(mut reader: impl Read) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut len = 0_usize;
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(buffer.get(..read).unwrap_or_default());
        len += read;
    }
    let mut text = format!("{len} ");
    for byte in hasher.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}
