//! Bodies of the fuzz targets.
//!
//! Each target is a plain function over bytes. `fuzz_targets/` hands them to libFuzzer, which needs
//! an unstable compiler; `tests/replay.rs` runs the same functions over the committed corpus and a
//! bounded number of mutations of it, which needs nothing and is part of every test run.
//!
//! A target must return for any input: a panic, an overflow or an allocation out of proportion to
//! the input is the finding.

use ringfence_protocol::{
    ControlReply, ControlRequest, FromAgent, Hello, ToAgent,
    frame::{self, FrameError, HEADER, MAX_FRAME},
};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// Reads the input as the peer of a connection would: frame after frame, each as every type of
/// message that any connection carries.
///
/// # Panics
/// When the decoder accepts what it must refuse, or a decoded value does not survive encoding.
pub fn decode_frame(data: &[u8]) {
    let mut rest = data;
    while let Some((header, after)) = rest.split_first_chunk::<HEADER>() {
        let claimed = u32::from_le_bytes(*header) as usize;
        let len = match frame::body_len(*header) {
            Ok(len) => len,
            Err(FrameError::Empty) => {
                assert_eq!(claimed, 0);
                return;
            }
            Err(error) => {
                assert_eq!(error, FrameError::TooLarge { len: claimed });
                assert!(claimed > MAX_FRAME);
                return;
            }
        };
        assert_eq!(len, claimed);
        // A stream that ends inside a frame: what is there is decoded too, it must be refused or
        // be a shorter message, and never read beyond its end.
        let (body, next) = after.split_at(len.min(after.len()));
        decode_as::<Hello>(body);
        decode_as::<ToAgent>(body);
        decode_as::<FromAgent>(body);
        decode_as::<ControlRequest>(body);
        decode_as::<ControlReply>(body);
        rest = next;
    }
}

fn decode_as<T: Serialize + DeserializeOwned + PartialEq + Debug>(body: &[u8]) {
    match frame::decode::<T>(body) {
        Ok(value) => {
            let encoded = frame::encode(&value).unwrap();
            assert!(encoded.len() <= HEADER + MAX_FRAME);
            assert_eq!(frame::decode::<T>(&encoded[HEADER..]), Ok(value));
        }
        Err(FrameError::Malformed { len }) => assert_eq!(len, body.len()),
        Err(FrameError::TrailingBytes { extra }) => assert!(extra > 0 && extra < body.len()),
        Err(error) => panic!("a body of {} bytes gave {error}", body.len()),
    }
}
