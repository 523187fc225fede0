//! The entries, which are shared with the ordinary tests.
#![forbid(unsafe_code)]

#[path = "../../tests/fuzzing/entries/mod.rs"]
pub mod entries;
