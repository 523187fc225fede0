//! Programs that others wrote, in other languages, against a real node: the CloudEvents SDKs, and a validator of the
//! API's description. They are installed into a folder beside the build, once.

use std::fs;
use std::io::{Write, stderr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use crate::harness::Mesh;

/// Versions that these tests were written for.
const PYTHON_PACKAGES: [&str; 2] = ["cloudevents==2.2.0", "openapi-spec-validator==0.9.0"];
const NODE_PACKAGES: [&str; 1] = ["cloudevents@10.0.0"];

/// True when this program is on the path; otherwise says so, and the test has to do without it.
///
/// # Panics
/// When it is missing and `ROUNDELAY_NO_SKIP=1` asks for every test to run.
pub(crate) fn has_program(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !found {
        skip(&format!("this machine lacks the program {program}"));
    }
    found
}

fn skip(why: &str) {
    let strict = std::env::var_os("ROUNDELAY_NO_SKIP").is_some_and(|value| value == "1");
    assert!(!strict, "ROUNDELAY_NO_SKIP=1 and {why}");
    // Not with a macro, whose output is kept back when a test passes.
    drop(writeln!(stderr(), "skipped: {why}"));
}

/// A folder in which these packages can be used; none where they cannot be installed.
///
/// # Panics
/// When they cannot and `ROUNDELAY_NO_SKIP=1` asks for every test to run.
fn installed(what: &str, folder: &str, install: fn(&Path) -> Result<(), String>) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    let done = folder.join("installed");
    if done.is_file() {
        return Some(folder);
    }
    // What another version of this test left, or an attempt that broke off.
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).expect("a folder");
    match install(&folder) {
        Ok(()) => {
            fs::write(done, "").expect("a note");
            Some(folder)
        }
        Err(reason) => {
            skip(&format!("{what} cannot be installed: {reason}"));
            None
        }
    }
}

fn run(command: &mut Command) -> Result<Output, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(output),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// The interpreter with the packages.
pub(crate) fn python() -> Option<PathBuf> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let install = |folder: &Path| {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        run(Command::new(folder.join("bin/python")).args(pip).args(PYTHON_PACKAGES)).map(drop)
    };
    let folder = || installed("the Python packages", &format!("python-{}", PYTHON_PACKAGES.join("-")), install);
    PYTHON.get_or_init(|| folder().map(|folder| folder.join("bin/python"))).clone()
}

/// The folder in which Node finds the packages.
pub(crate) fn node_modules() -> Option<PathBuf> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let install = |folder: &Path| {
        run(Command::new("node").arg("--version"))?;
        fs::write(folder.join("package.json"), "{\"private\": true}\n").map_err(|error| error.to_string())?;
        let npm = ["install", "--silent", "--no-audit", "--no-fund"];
        run(Command::new("npm").current_dir(folder).args(npm).args(NODE_PACKAGES)).map(drop)
    };
    FOLDER.get_or_init(|| installed("the Node packages", &format!("node-{}", NODE_PACKAGES.join("-")), install)).clone()
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/languages").join(name)
}

#[track_caller]
fn is_well(command: &mut Command) {
    let output = run(command).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "well");
}

#[test]
fn the_python_sdk_publishes_in_every_mode_and_reads_the_same_back() {
    let Some(python) = python() else { return };
    let mesh = Mesh::star(1);
    is_well(Command::new(python).arg(script("exchange.py")).arg(mesh[0].home.join("api.sock")));
}

#[test]
fn the_node_sdk_publishes_in_every_mode_and_reads_the_same_back() {
    let Some(folder) = node_modules() else { return };
    let mesh = Mesh::star(1);
    let socket = mesh[0].home.join("api.sock");
    is_well(Command::new("node").current_dir(folder).arg(script("exchange.mjs")).arg(socket));
}

#[test]
fn the_description_of_the_api_is_valid() {
    let Some(python) = python() else { return };
    let mesh = Mesh::star(1);
    let file = mesh.folder().join("openapi.json");
    fs::write(&file, mesh[0].http().get("/v1/openapi.json").expect(200).body).expect("a file");
    run(Command::new(&python).args(["-m", "openapi_spec_validator"]).arg(&file))
        .unwrap_or_else(|error| panic!("{error}"));
    // It would notice.
    let broken = fs::read_to_string(&file).expect("it").replacen("\"responses\"", "\"answers\"", 1);
    fs::write(&file, broken.replacen("\"version\"", "\"edition\"", 1)).expect("a file");
    assert!(run(Command::new(&python).args(["-m", "openapi_spec_validator"]).arg(&file)).is_err());
}
