//! Runs a command to its end.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::binary;

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Finished {
    /// None when a signal ended it
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// Fails unless the command ended with `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code; stdout:\n{}\nstderr:\n{}", tail(&self.stdout), self.stderr);
        self
    }

    /// Fails unless stderr has one of `words`, whatever their case, and no panic.
    #[track_caller]
    pub(crate) fn saying(self, words: &[&str]) -> Self {
        assert!(mentions(&self.stderr, words), "stderr has none of {words:?}:\n{}", self.stderr);
        assert!(!self.stderr.contains("panicked at"), "a panic is no message:\n{}", self.stderr);
        self
    }
}

/// Whether `text` has one of `words`, whatever their case.
pub(crate) fn mentions(text: &str, words: &[&str]) -> bool {
    let text = text.to_lowercase();
    words.iter().any(|word| text.contains(&word.to_lowercase()))
}

/// The last lines of a long text.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(80)..].join("\n")
}

/// A command of the executable under test, free of what the caller's environment would change.
pub(crate) fn roundelay<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = roundelay_through(&[]);
    command.args(args);
    command
}

/// The same, without arguments yet, started by another command.
pub(crate) fn roundelay_through(prefix: &[String]) -> Command {
    let mut command = match prefix {
        [] => Command::new(binary::roundelay()),
        [program, args @ ..] => {
            let mut command = Command::new(program);
            command.args(args).arg(binary::roundelay());
            command
        }
    };
    command.env("NO_COLOR", "1").env("RUST_BACKTRACE", "1");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ROUNDELAY_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs `command`, gives it `input`, and fails when it has not ended after `limit`.
#[track_caller]
pub(crate) fn run(mut command: Command, input: String, limit: Duration) -> Finished {
    let shown = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
    let mut stdin = child.stdin.take().expect("piped");
    // A command that refuses its arguments closes its input early.
    let writer = thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let stdout = reader(child.stdout.take().expect("piped"));
    let stderr = reader(child.stderr.take().expect("piped"));
    let code = wait(&mut child, limit);
    if code.is_none() {
        drop(child.kill());
    }
    let status = child.wait().expect("it was killed or has ended");
    writer.join().expect("writer");
    let finished = Finished {
        code: status.code(),
        stdout: stdout.join().expect("reader"),
        stderr: stderr.join().expect("reader"),
    };
    assert!(code.is_some(), "still running after {limit:?}: {shown}\n{}\n{}", tail(&finished.stdout), finished.stderr);
    finished
}

/// Waits for the end of a process: Some(exit code, if no signal ended it), or None when it still runs after `limit`.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> Option<Option<i32>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait for a child") {
            return Some(status.code());
        }
        if start.elapsed() > limit {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn reader(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("read the output of a child");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
