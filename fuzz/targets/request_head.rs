//! See `src/request_head.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::request_head::check(data));
