//! What docs/choreography.md says to type does what it shows: its blocks are run in order, and what is printed is compared.
//!
//! `toml` is a file or lines that change it, `sh` is typed, `console` is typed and compared, `mermaid` and `rust` are held against
//! what draws and contains them.

#[path = "harness/binary.rs"]
mod binary;
#[path = "harness/document.rs"]
mod document;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use document::Block;

const FOLDER: &str = env!("CARGO_MANIFEST_DIR");
/// How long one command may take.
const LIMIT: Duration = Duration::from_secs(60);
/// How long it may take until what is asked is as shown: events are on their way, and what is owed is undone after a while.
const PATIENCE: Duration = Duration::from_secs(20);
/// The section that is left out where there is no curl.
const WITH_CURL: &str = "## In any language";
/// A line that no command prints, before its exit code.
const END: &str = "\u{1e}";

#[test]
fn what_the_tutorial_says_to_type_does_what_it_shows() {
    let page = fs::read_to_string(format!("{FOLDER}/docs/choreography.md")).expect("the tutorial");
    let folder = tempfile::tempdir().expect("a folder");
    let page = match document::can("curl --version", folder.path()) {
        true => page,
        false => page.replace(&document::section(&page, WITH_CURL), ""),
    };
    let mut reader = Reader::new(folder.path());
    for Block { language, text } in document::blocks(&page) {
        match &*language {
            "toml" => reader.edit(&text),
            "sh" => assert_eq!(reader.run(&text).1, 0, "{text}\n{}", reader.told()),
            "console" => reader.compare(&text),
            "mermaid" => {
                assert_eq!(
                    reader.run("roundelay choreography show order.toml --format mermaid").0,
                    text,
                    "the picture"
                );
            }
            "rust" => {
                let program = fs::read_to_string(format!("{FOLDER}/examples/payment.rs")).expect("the example");
                assert!(undented(&program).contains(&undented(&text)), "not in examples/payment.rs:\n{text}");
            }
            other => panic!("what is to become of a block in {other:?}?\n{text}"),
        }
    }
    let own = |text: &str| text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    let kept = fs::read_to_string(format!("{FOLDER}/examples/declarations/order.toml")).expect("a declaration");
    assert_eq!(
        own(&reader.declaration()),
        own(&kept),
        "what the reader ends with, and examples/declarations/order.toml"
    );
}

/// Who types what stands in the page: a shell, and what it prints.
struct Reader {
    shell: Child,
    keys: ChildStdin,
    printed: Receiver<String>,
    folder: PathBuf,
}

impl Reader {
    fn new(folder: &Path) -> Self {
        let payment = binary::build(&["--example", "payment"]).join("examples/payment");
        let mut shell = document::shell(folder, binary::roundelay())
            .env("PAYMENT", payment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash starts");
        let (lines, printed) = channel();
        let output = BufReader::new(shell.stdout.take().expect("its output"));
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        let keys = shell.stdin.take().expect("its input");
        let mut reader = Self { shell, keys, printed, folder: folder.to_owned() };
        // The example is built, and the rehearsal in it is a test of its own.
        reader.run("exec 2>&1; cargo() { if [ $1 = run ]; then shift; while [ $1 != -- ]; do shift; done; shift; exec \"$PAYMENT\" \"$@\"; fi; }");
        reader
    }

    /// Types something; what it printed, and its exit code.
    fn run(&mut self, command: &str) -> (String, i32) {
        writeln!(self.keys, "{command}\nprintf '\\n{END} %s\\n' $?").expect("the shell reads");
        let mut said = String::new();
        loop {
            match self.printed.recv_timeout(LIMIT) {
                Ok(line) if line.starts_with(END) => {
                    // The line feed before the mark.
                    said.pop();
                    return (said, line[END.len()..].trim().parse().expect("an exit code"));
                }
                Ok(line) => said += &(line + "\n"),
                Err(_) => panic!("after {LIMIT:?} there was no end of\n{command}\n{said}\n{}", self.told()),
            }
        }
    }

    /// Types the commands of a block, and compares what is stable of what they print.
    fn compare(&mut self, block: &str) {
        for (command, shown) in commands(block) {
            let begun = Instant::now();
            loop {
                let said = self.run(&command).0;
                if stable(&said) == stable(&shown) {
                    break;
                }
                // What only asks may be asked again, as a reader would.
                let asks =
                    command.starts_with("roundelay ") || command.starts_with("cat ") || command.starts_with("grep ");
                let told = self.told();
                assert!(asks && begun.elapsed() < PATIENCE, "$ {command}\n{said}\n--- is shown as:\n{shown}\n{told}");
                thread::sleep(Duration::from_millis(200));
            }
        }
    }

    fn declaration(&self) -> String {
        fs::read_to_string(self.folder.join("target/tutorial/order.toml")).expect("the declaration")
    }

    /// A whole file, or lines that take the place of those with the same key, or come after the last of their table.
    fn edit(&self, block: &str) {
        let path = self.folder.join("target/tutorial/order.toml");
        if block.starts_with("format = ") {
            return fs::write(path, block).expect("a file");
        }
        let mut lines: Vec<String> = self.declaration().lines().map(str::to_owned).collect();
        let key = |line: &str| line.split_once(" = ").map(|(key, _)| key.to_owned());
        let mut table = "";
        for line in block.lines().filter(|line| !line.is_empty()) {
            if line.starts_with('[') {
                table = line;
                continue;
            }
            let begin = lines.iter().position(|found| found == table).expect("a table that is there") + 1;
            let end = begin + lines[begin..].iter().take_while(|line| !line.is_empty()).count();
            match lines[begin..end].iter().position(|found| key(found) == key(line)) {
                Some(place) => lines[begin + place] = line.to_owned(),
                None => lines.insert(end, line.to_owned()),
            }
        }
        fs::write(path, lines.join("\n") + "\n").expect("a file");
    }

    /// What the programs in the background said.
    fn told(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.folder.join("target/tutorial").join(name)).unwrap_or_default();
        ["first.txt", "second.txt", "payment.txt"].map(|name| format!("--- {name}\n{}", read(name))).concat()
    }
}

impl Drop for Reader {
    /// Stops everything that was started, whatever happened, and waits for it.
    fn drop(&mut self) {
        let _ = writeln!(self.keys, "kill $(jobs -p); wait; exit");
        let _ = self.shell.wait();
    }
}

/// The commands of a block, each with what it is shown to print.
fn commands(block: &str) -> Vec<(String, String)> {
    let mut found = Vec::<(String, String)>::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), found.last_mut()) {
            (Some(command), _) => found.push((command.to_owned(), String::new())),
            (None, Some((_, shown))) => *shown += &format!("{line}\n"),
            (None, None) => panic!("a block begins with no command:\n{block}"),
        }
    }
    found
}

/// Lines without indents, and without what differs from run to run: times of day, dates, spans and rates, ids of nodes.
fn stable(text: &str) -> Vec<String> {
    let is_fleeting = |word: &str| {
        let bare = word.trim_start_matches('+').trim_end_matches(',');
        let is_number = bare.starts_with(|first: char| first.is_ascii_digit());
        let is_time = bare.contains(':') || bare.ends_with('s') || bare.split('-').count() == 3 || bare.len() == 13;
        is_number && is_time || bare.starts_with("12D3")
    };
    let mask = |word| if is_fleeting(word) { "_" } else { word };
    let lines = text.lines().map(|line| line.split_whitespace().map(mask).collect::<Vec<_>>().join(" "));
    lines.filter(|line| !line.is_empty()).collect()
}

fn undented(text: &str) -> String {
    text.lines().map(|line| line.trim().to_owned() + "\n").collect()
}

#[test]
fn what_is_not_shown_is_told_apart_from_what_passes() {
    assert_eq!(stable("a  +315ms 11:27:40.286\n\n  b 1.5/s,"), stable("a +2ms  09:00:00.001\nb 7.25/s,"));
    assert_ne!(stable("order-1 placed"), stable("order-2 placed"));
    assert_ne!(stable("order.placed: 1"), stable("order.placed: 2"));
}
