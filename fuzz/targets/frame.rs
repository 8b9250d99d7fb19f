//! See `src/frame.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::frame::check(data));
