//! See `src/body.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::body::check(data));
