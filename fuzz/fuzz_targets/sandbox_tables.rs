//! Entry point for libFuzzer; see `ringfence_fuzz::TARGETS`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringfence_sandbox::fuzzing::tables(data));
