//! What the README says to type does what it says: its commands are taken from it and run, in order.

#[path = "harness/binary.rs"]
mod binary;
#[path = "harness/document.rs"]
mod document;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, thread};

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
/// How long all commands of a section may take together.
const LIMIT: Duration = Duration::from_secs(120);
/// Stops the nodes that were started, whatever happened, and waits for them.
const STOP: &str = "stop() { code=$?; trap - EXIT; kill $(jobs -p) 2>/dev/null || true; wait || true; exit $code; }\ntrap stop EXIT TERM\n";

#[test]
fn the_blocks_by_hand_run_in_order() {
    let readme = fs::read_to_string(README).expect("the README");
    let blocks = blocks(&readme, "## By hand", "sh");
    assert!(blocks.len() >= 6, "only {} blocks in 'By hand'", blocks.len());
    let mut script = format!("set -euo pipefail\n{STOP}");
    for block in &blocks {
        let _ = writeln!(script, "printf '%s\\n' {} >&2\n{block}", quote(block));
    }
    let folder = tempfile::tempdir().expect("a folder");
    run_script(&script, folder.path());
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    assert_eq!(read("orders.ndjson").lines().count(), 2, "events that were exported");
    let said = read("stdout");
    for wanted in ["\"total\": 9.5", "order.placed", "998\n999\n1000\n", "healthy"] {
        assert!(said.contains(wanted), "no {wanted:?} in what was printed:\n{said}");
    }
}

#[test]
fn the_programs_in_other_languages_run() {
    let readme = fs::read_to_string(README).expect("the README");
    let section = |language: &str| blocks(&readme, "## In your language", language);
    let (sh, python, node) = (section("sh"), section("python"), section("js"));
    assert_eq!((sh.len(), python.len(), node.len()), (2, 1, 1));
    let folder = tempfile::tempdir().expect("a folder");
    let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a file");
    put("orders.py", &python[0]);
    put("orders.mjs", &node[0]);
    let can = |line: &str| document::can(line, folder.path());
    let mut script = format!("set -euo pipefail\n{STOP}{}\n", sh[0]);
    let mut wanted = Vec::new();
    if can("curl --version") {
        script += &format!("{}\n", sh[1]);
        wanted.push("\"number\": 2");
    }
    if can("python3 -m venv env && env/bin/pip install --quiet cloudevents==2.2.0 httpx==0.28.1") {
        script += "env/bin/python orders.py\n";
        wanted.extend(["stored at", "order-3 12\n"]);
    }
    if can("npm install --silent --no-audit --no-fund cloudevents@10.0.0") {
        script += "node orders.mjs\n";
        wanted.extend(["status 201", "order-4 7\n"]);
    }
    run_script(&script, folder.path());
    let said = fs::read_to_string(folder.path().join("stdout")).unwrap_or_default();
    for wanted in wanted {
        assert!(said.contains(wanted), "no {wanted:?} in what was printed:\n{said}");
    }
}

#[test]
fn the_first_screen_has_the_two_commands() {
    let readme = fs::read_to_string(README).expect("the README");
    let first: String = readme.lines().take(24).map(|line| line.to_owned() + "\n").collect();
    for command in ["```sh\ncargo run --release -- dev --demo\n```", "```sh\ncargo test\n```"] {
        assert!(first.contains(command), "the first screen lacks {command}");
    }
}

#[test]
fn usage_errors_and_exit_codes_are_as_shown() {
    let folder = binary::roundelay().parent().expect("a folder");
    trycmd::TestCases::new()
        .register_bin("roundelay", folder.join("roundelay"))
        .env("NO_COLOR", "1")
        .env("COLUMNS", "200")
        .case("README.md")
        .case("tests/cmd/*.trycmd");
}

/// The fenced blocks of one section in a language.
fn blocks(text: &str, section: &str, language: &str) -> Vec<String> {
    let blocks = document::blocks(&document::section(text, section)).into_iter();
    blocks.filter(|block| block.language == language).map(|block| block.text).collect()
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn run_script(script: &str, folder: &Path) {
    let (out, err) = (folder.join("stdout"), folder.join("stderr"));
    let mut child = document::shell(folder, binary::roundelay())
        .args(["-c", script])
        .stdout(fs::File::create(&out).expect("a file"))
        .stderr(fs::File::create(&err).expect("a file"))
        .spawn()
        .expect("bash starts");
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("the script") {
            break Some(status);
        }
        if started.elapsed() > LIMIT {
            // Its own trap stops the nodes.
            let _ = Command::new("sh").args(["-c", &format!("kill -s TERM {}", child.id())]).status();
            thread::sleep(Duration::from_secs(5));
            let _ = (child.kill(), child.wait());
            break None;
        }
        thread::sleep(Duration::from_millis(50));
    };
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let passed = status.is_some_and(|status| status.success());
    assert!(passed, "{status:?} after {:?}\n{}\n{}", started.elapsed(), read(&out), read(&err));
}
