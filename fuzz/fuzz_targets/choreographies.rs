//! See `tests/fuzzing/entries`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| roundelay_fuzz::entries::choreographies(bytes));
