//! Documents as programs: their fenced blocks, and the shell that runs them.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// A fenced block.
pub(crate) struct Block {
    /// What stands behind the fence: its language.
    pub(crate) language: String,
    /// Its lines, each with its end.
    pub(crate) text: String,
}

/// All fenced blocks of a text, in order.
pub(crate) fn blocks(text: &str) -> Vec<Block> {
    let mut lines = text.lines();
    let mut found = Vec::new();
    while let Some(language) = lines.find_map(|line| line.strip_prefix("```")) {
        let text = lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
        found.push(Block { language: language.to_owned(), text });
    }
    found
}

/// The text of one section.
pub(crate) fn section(text: &str, heading: &str) -> String {
    let lines = text.lines().skip_while(|line| *line != heading).skip(1);
    lines.take_while(|line| !line.starts_with("## ")).map(|line| format!("{line}\n")).collect()
}

/// A shell in a folder, in which `roundelay` is the program under test, and nothing of the environment is meant for it.
pub(crate) fn shell(folder: &Path, program: &Path) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let programs = program.parent().expect("a folder");
    let mut command = Command::new("bash");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ROUNDELAY_")) {
        command.env_remove(name);
    }
    command
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", programs.display()))
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    command
}

/// Whether a machine can do this; where it cannot, that is told, or is a failure when `ROUNDELAY_NO_SKIP` is 1.
pub(crate) fn can(line: &str, folder: &Path) -> bool {
    let done = Command::new("bash").args(["-c", line]).current_dir(folder).output().expect("bash starts");
    let why = String::from_utf8_lossy(&done.stderr);
    let strict = std::env::var_os("ROUNDELAY_NO_SKIP").is_some_and(|value| value == "1");
    assert!(done.status.success() || !strict, "ROUNDELAY_NO_SKIP=1, and here one cannot {line}: {why}");
    if !done.status.success() {
        // Not with a macro, whose output is kept back when a test passes.
        let _ = writeln!(std::io::stderr(), "skipped a part: here one cannot {line}");
    }
    done.status.success()
}
