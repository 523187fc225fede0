//! What the command line does without a daemon: refuses bad usage, says that no node is there, and helps.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;

fn roundelay(home: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roundelay"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ROUNDELAY_")) {
        command.env_remove(name);
    }
    command.arg("--home").arg(home).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn without_a_node_commands_say_how_to_start_one() {
    let home = tempfile::tempdir().unwrap();
    for args in [
        &["status"][..],
        &["peers"],
        &["peers", "block", "berlin"],
        &["topics", "join", "a"],
        &["pub", "a", "data"],
        &["pub", "a"],
        &["sub", "a"],
        &["wait", "--converged"],
        &["log", "holes"],
        &["log", "import"],
    ] {
        let done = roundelay(home.path(), args);
        let said = text(&done.stderr);
        assert_eq!(done.status.code(), Some(UNREACHABLE), "{args:?}: {said}");
        assert!(said.contains("no node is running") && said.contains(" up"), "{args:?}: {said}");
        assert!(done.stdout.is_empty() && !said.contains('\x1b'), "{args:?}");
    }
}

#[test]
fn errors_are_json_when_that_is_asked_for() {
    let home = tempfile::tempdir().unwrap();
    for (args, code, exit) in [
        (&["status", "--json"][..], "unreachable", UNREACHABLE),
        (&["--json", "sub", "a..b"], "usage", USAGE),
        (&["pub", "a", "b", "--id", "x", "--count", "2", "--json"], "usage", USAGE),
    ] {
        let done = roundelay(home.path(), args);
        assert_eq!(done.status.code(), Some(exit), "{args:?}");
        let error: serde_json::Value = serde_json::from_slice(&done.stderr).unwrap();
        assert_eq!(error["error"]["code"], code, "{error}");
        assert!(error["error"]["message"].is_string() && error["error"]["hint"].is_string(), "{error}");
    }
}

#[test]
fn help_completions_and_manual_pages_are_there() {
    let home = tempfile::tempdir().unwrap();
    let ok = |args: &[&str]| {
        let done = roundelay(home.path(), args);
        assert!(done.status.success(), "{args:?}: {}", text(&done.stderr));
        text(&done.stdout).to_owned()
    };
    assert!(ok(&["--help"]).contains("Exit codes"));
    assert!(ok(&["log", "restore", "--help"]).contains("Example"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(ok(&["completions", shell]).contains("roundelay"));
    }
    assert!(ok(&["man"]).contains(".TH"));
    let pages = home.path().join("man/man1");
    ok(&["man", pages.to_str().unwrap()]);
    assert!(pages.join("roundelay-pub.1").exists());
}

#[test]
fn nothing_to_verify_back_up_or_restore() {
    let home = tempfile::tempdir().unwrap();
    let missing = home.path().join("missing.rdl");
    let missing = missing.to_str().unwrap();
    for (args, word) in [
        (&["log", "verify"][..], "no log"),
        (&["log", "export"], "no log"),
        (&["log", "backup", missing], "no log"),
        (&["log", "restore", missing], "missing.rdl"),
    ] {
        let done = roundelay(home.path(), args);
        assert_eq!(done.status.code(), Some(1), "{args:?}");
        assert!(text(&done.stderr).contains(word), "{args:?}: {}", text(&done.stderr));
    }
    assert!(!home.path().join("log").exists(), "nothing was made");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let home = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_roundelay"))
        .arg("--home")
        .arg(home.path())
        .args(["completions", "zsh"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success() && done.stderr.is_empty(), "{}", text(&done.stderr));
}
