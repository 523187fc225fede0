//! What a test needs of the machine, and what becomes of it where that is missing.

use std::fs::{self, OpenOptions};
use std::io::{Write, stderr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Something that not every machine has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    /// The superuser, who may mount, cut the power of a file system, and make devices.
    Root,
    /// Network namespaces and bridges can be made (`ip`). Implies `Root`.
    Namespaces,
    /// Files can be mounted as file systems. Implies `Root`.
    LoopDevices,
    /// A program on the path.
    Program(&'static str),
    /// System calls can be made to fail or to take long (`strace`).
    Strace,
    /// Clocks can be set off (`libfaketime`).
    Faketime,
}

/// True when the machine has all of this. Otherwise says so in a line on stderr, and the test has to return at once.
/// Every test of this executable calls it first, if only with nothing, so that the record is whole.
///
/// # Panics
/// When something is missing and `ROUNDELAY_NO_SKIP=1` asks for every test to run.
#[track_caller]
pub(crate) fn has(needs: &[Need]) -> bool {
    let name = name_of_test();
    let Some(missing) = needs.iter().find_map(|need| missing(*need)) else {
        record(&format!("ran {name}"));
        return true;
    };
    let strict = std::env::var_os("ROUNDELAY_NO_SKIP").is_some_and(|value| value == "1");
    assert!(!strict, "ROUNDELAY_NO_SKIP=1 and this machine lacks {missing}");
    record(&format!("skipped {name}: {missing}"));
    // Not with a macro, whose output is kept back when a test passes.
    drop(writeln!(stderr(), "skipped {name}: this machine lacks {missing}"));
    false
}

/// Where libfaketime is, which `has` found.
pub(crate) fn faketime_library() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path().join("faketime"));
    let all = folders.chain(["/usr/lib/faketime".into(), "/usr/local/lib/faketime".into()]);
    all.map(|folder| folder.join("libfaketime.so.1")).find(|library| library.is_file())
}

/// What of this need is missing, in words.
fn missing(need: Need) -> Option<String> {
    match need {
        Need::Root => (!is_root()).then(|| "root".to_owned()),
        Need::Namespaces => missing(Need::Root)
            .or_else(|| missing(Need::Program("ip")))
            .or_else(|| missing(Need::Program("nsenter")))
            .or_else(|| (!can_make_namespaces()).then(|| "network namespaces".to_owned())),
        Need::LoopDevices => missing(Need::Root)
            .or_else(|| missing(Need::Program("mount")))
            .or_else(|| missing(Need::Program("mkfs.ext4")))
            .or_else(|| (!Path::new("/dev/loop-control").exists()).then(|| "loop devices".to_owned())),
        Need::Program(program) => (!is_on_path(program)).then(|| format!("the program {program}")),
        Need::Strace => missing(Need::Program("strace"))
            .or_else(|| (!succeeds("strace", &["-qq", "-e", "trace=none", "true"])).then(|| "ptrace".to_owned())),
        Need::Faketime => faketime_library().is_none().then(|| "libfaketime".to_owned()),
    }
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn can_make_namespaces() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let name = format!("faults-{}-probe", std::process::id());
        let made = succeeds("ip", &["netns", "add", &name]);
        let bridge = succeeds("ip", &["-n", &name, "link", "add", "bridge", "type", "bridge"]);
        let removed = succeeds("ip", &["netns", "delete", &name]);
        made && bridge && removed
    })
}

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn succeeds(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The test's thread carries its name, unless there is but one thread; then the place of the call has to do.
#[track_caller]
fn name_of_test() -> String {
    match std::thread::current().name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => std::panic::Location::caller().to_string(),
    }
}

/// Adds a line to the record of this run, which replaces that of the last one.
fn record(line: &str) {
    static RECORD: OnceLock<PathBuf> = OnceLock::new();
    let path = RECORD.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults-record.txt");
        drop(fs::remove_file(&path));
        path
    });
    let file = OpenOptions::new().create(true).append(true).open(path);
    let written = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

#[test]
fn what_is_missing_is_named() {
    assert!(has(&[]));
    assert_eq!(missing(Need::Program("no-such-program")).as_deref(), Some("the program no-such-program"));
    for need in [Need::Root, Need::Namespaces, Need::LoopDevices, Need::Program("sh"), Need::Strace, Need::Faketime] {
        assert!(missing(need).is_none_or(|what| !what.is_empty()), "{need:?}");
    }
    assert_eq!(missing(Need::Program("sh")), None);
}
