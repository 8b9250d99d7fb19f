//! See `src/control.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| checks::control::check(data));
