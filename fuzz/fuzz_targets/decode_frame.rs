//! Entry point for libFuzzer; see `ringfence_fuzz::decode_frame`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringfence_fuzz::decode_frame(data));
