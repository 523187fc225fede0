//! What a test needs beside the daemon, and what becomes of it where that is missing.

use std::io::{Write, stderr};

/// True when this program is on the path. Otherwise says so in a line on stderr, and the test has to do without it.
///
/// # Panics
/// When it is missing and `ROUNDELAY_NO_SKIP=1` asks for every test to run.
#[track_caller]
pub(crate) fn has_program(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
        return true;
    }
    let strict = std::env::var_os("ROUNDELAY_NO_SKIP").is_some_and(|value| value == "1");
    assert!(!strict, "ROUNDELAY_NO_SKIP=1 and this machine lacks the program {program}");
    // Not with a macro, whose output is kept back when a test passes.
    drop(writeln!(stderr(), "skipped: this machine lacks the program {program}"));
    false
}

#[test]
fn a_program_that_is_missing_is_noticed() {
    assert!(has_program("sh"));
    if std::env::var_os("ROUNDELAY_NO_SKIP").is_none() {
        assert!(!has_program("no-such-program"));
    }
}
