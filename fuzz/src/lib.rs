//! Bodies of the fuzz targets.
//!
//! Each target is a plain function over bytes. `fuzz_targets/` hands them to libFuzzer, which needs
//! an unstable compiler; `tests/replay.rs` runs the same functions over the committed corpus and a
//! bounded number of mutations of it, which needs nothing and is part of every test run. Targets of
//! the virtual machine monitor and of the sandbox are functions of their own, which their property
//! tests call too. The sandbox's are there on Linux alone.
//!
//! A target must return for any input: a panic, an overflow or an allocation out of proportion to
//! the input is the finding.

use ringfence::fuzzing;
use ringfence_protocol::{
    ControlReply, ControlRequest, FromAgent, Hello, ToAgent,
    frame::{self, FrameError, HEADER, MAX_FRAME},
};
#[cfg(target_os = "linux")]
use ringfence_sandbox::fuzzing as sandbox;
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;

/// A target, and what a replay may spend on it.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: that of its corpus, and of its entry point for libFuzzer.
    pub name: &'static str,
    /// Takes any bytes.
    pub body: fn(&[u8]),
    /// Mutated inputs that a replay tries.
    pub mutations: u32,
    /// Inputs begin with the length of the rest.
    pub has_length: bool,
    /// Bytes of memory that any input may cost at one time, besides guest memory.
    pub memory: usize,
    /// Bytes of memory that an input may cost per byte of its own.
    pub memory_per_byte: usize,
}

impl Target {
    const fn guest(name: &'static str, body: fn(&[u8]), mutations: u32) -> Self {
        Self {
            name,
            body,
            mutations,
            has_length: false,
            // What the test keeps of the guest, above all.
            memory: 2 << 20,
            memory_per_byte: 512,
        }
    }
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "decode_frame",
        body: decode_frame,
        mutations: 20_000,
        has_length: true,
        memory: 16 << 10,
        // The smallest element of a list takes one byte on the wire and 64 in memory, a growing
        // vector holds two copies, and a value is compared with its second decoding.
        memory_per_byte: 512,
    },
    Target::guest("virtio_mmio", fuzzing::virtio_mmio, 1000),
    Target::guest("virtio_blk", fuzzing::virtio_blk, 1000),
    Target::guest("virtio_rng", fuzzing::virtio_rng, 1000),
    Target::guest("virtio_vsock", fuzzing::virtio_vsock, 1000),
    Target {
        // Each connection may hold what its host program does not read. A few bytes open one.
        memory_per_byte: 128 << 10,
        ..Target::guest("vsock", fuzzing::vsock, 1000)
    },
    Target::guest("hvf_exits", fuzzing::hvf_exits, 1000),
    Target::guest("kernel_image", fuzzing::kernel_image, 5000),
    Target::guest("device_tree", fuzzing::device_tree, 1000),
    #[cfg(target_os = "linux")]
    Target::guest("sandbox_policy", sandbox::policy, 5000),
    #[cfg(target_os = "linux")]
    Target::guest("sandbox_tables", sandbox::tables, 1000),
    #[cfg(target_os = "linux")]
    Target::guest("sandbox_paths", sandbox::paths, 20_000),
    #[cfg(target_os = "linux")]
    Target::guest("sandbox_versions", sandbox::versions, 1000),
    #[cfg(target_os = "linux")]
    Target {
        // A few bytes make fifty arguments of the greatest length, which are passed as they are.
        memory: 32 << 20,
        ..Target::guest("sandbox_configuration", sandbox::configuration, 1000)
    },
    #[cfg(target_os = "linux")]
    Target::guest("sandbox_records", sandbox::records, 20_000),
];

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
