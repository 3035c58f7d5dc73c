//! Framing: a little-endian `u32` length, then one postcard value of that many bytes.
//!
//! The functions work on slices and vectors; who reads and writes the stream is the caller's
//! matter. A reader takes [`HEADER`] bytes, asks [`body_len`] how many follow, reads exactly those
//! and hands them to [`decode`].

use alloc::vec::Vec;
use serde::{Serialize, de::DeserializeOwned};

/// Bytes of the length field.
pub const HEADER: usize = 4;

/// The largest value in bytes, length field not counted: 1 MiB.
pub const MAX_FRAME: usize = 1 << 20;

/// Why a frame was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length field, or the value about to be sent, exceeds [`MAX_FRAME`].
    #[error("a frame of {len} bytes is above the limit of {MAX_FRAME}")]
    TooLarge {
        /// The claimed or needed length in bytes.
        len: usize,
    },
    /// A length of zero: no value of the protocol is empty.
    #[error("a frame of no bytes holds no message")]
    Empty,
    /// The bytes are no value of the expected type.
    #[error("the frame of {len} bytes is not a valid message")]
    Malformed {
        /// The length of the frame in bytes.
        len: usize,
    },
    /// The value ended before the frame did.
    #[error("{extra} bytes follow the message in its frame")]
    TrailingBytes {
        /// How many bytes were left over.
        extra: usize,
    },
    /// The value could not be put into bytes.
    #[error("the message cannot be encoded")]
    Unencodable,
}

/// The number of bytes that follow this header.
///
/// # Errors
/// [`FrameError::TooLarge`] and [`FrameError::Empty`]; nothing has been allocated by then.
pub fn body_len(header: [u8; HEADER]) -> Result<usize, FrameError> {
    // `u32` always fits: no target of this project has a smaller `usize`.
    let len = usize::try_from(u32::from_le_bytes(header)).unwrap_or(usize::MAX);
    match len {
        0 => Err(FrameError::Empty),
        1..=MAX_FRAME => Ok(len),
        _ => Err(FrameError::TooLarge { len }),
    }
}

/// Decodes the body of a frame. Every byte of it must belong to the value.
///
/// # Errors
/// [`FrameError::TooLarge`], [`FrameError::Malformed`] and [`FrameError::TrailingBytes`].
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    if body.len() > MAX_FRAME {
        return Err(FrameError::TooLarge { len: body.len() });
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(FrameError::TrailingBytes { extra: rest.len() }),
        Err(_) => Err(FrameError::Malformed { len: body.len() }),
    }
}

/// Encodes a value as a whole frame, header included, replacing what `buffer` held.
///
/// # Errors
/// [`FrameError::TooLarge`] when the value exceeds [`MAX_FRAME`]; `buffer` is then empty.
pub fn encode_into<T: Serialize>(value: &T, buffer: &mut Vec<u8>) -> Result<(), FrameError> {
    let mut frame = core::mem::take(buffer);
    frame.clear();
    frame.extend_from_slice(&[0; HEADER]);
    let mut frame =
        postcard::to_extend(value, frame).map_err(|_encoding| FrameError::Unencodable)?;
    let len = frame.len().saturating_sub(HEADER);
    let field = u32::try_from(len).ok().filter(|_| len <= MAX_FRAME);
    let (Some(field), Some(header)) = (field, frame.first_chunk_mut::<HEADER>()) else {
        return Err(FrameError::TooLarge { len });
    };
    *header = field.to_le_bytes();
    *buffer = frame;
    Ok(())
}

/// Encodes a value as a whole frame in a vector of its own.
///
/// # Errors
/// As [`encode_into`].
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let mut buffer = Vec::new();
    encode_into(value, &mut buffer)?;
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FromAgent, ToAgent};
    use alloc::vec;
    use serde_bytes::ByteBuf;

    #[test]
    fn a_header_is_checked_before_the_body() {
        assert_eq!(body_len([0, 0, 0, 0]), Err(FrameError::Empty));
        assert_eq!(body_len([0, 0, 16, 0]), Ok(MAX_FRAME));
        assert_eq!(
            body_len([1, 0, 16, 0]),
            Err(FrameError::TooLarge { len: MAX_FRAME + 1 })
        );
        assert_eq!(
            body_len([0xff; 4]),
            Err(FrameError::TooLarge {
                len: u32::MAX as usize
            })
        );
    }

    #[test]
    fn a_value_that_is_too_large_is_not_encoded() {
        let mut buffer = vec![1, 2, 3];
        let message = ToAgent::Stdin(ByteBuf::from(vec![0; MAX_FRAME]));
        assert!(matches!(
            encode_into(&message, &mut buffer),
            Err(FrameError::TooLarge { .. })
        ));
        assert!(buffer.is_empty());
    }

    #[test]
    fn left_over_and_missing_bytes_are_refused() {
        let frame = encode(&FromAgent::Stdout(ByteBuf::from(b"abc".to_vec()))).unwrap();
        let body = &frame[HEADER..];
        assert_eq!(body_len(*frame.first_chunk().unwrap()), Ok(body.len()));
        let mut longer = body.to_vec();
        longer.push(0);
        assert_eq!(
            decode::<FromAgent>(&longer),
            Err(FrameError::TrailingBytes { extra: 1 })
        );
        for end in 0..body.len() {
            assert_eq!(
                decode::<FromAgent>(&body[..end]),
                Err(FrameError::Malformed { len: end })
            );
        }
    }

    #[test]
    fn an_inner_length_that_lies_is_refused() {
        // Variant 0 of `ToAgent` is `Exec`; its first field claims 2^28 bytes.
        let body = [0, 0x80, 0x80, 0x80, 0x80, 0x01];
        assert_eq!(
            decode::<ToAgent>(&body),
            Err(FrameError::Malformed { len: body.len() })
        );
    }
}
