//! What clients of server-sent events that others wrote make of a node: one in Python and one in JavaScript.

use std::fs::{self, File};
use std::io::{Write, stderr};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{DEADLINE, Mesh, within};

const PYTHON_CLIENT: &str = "sseclient-py==1.9.0";
const NODE_CLIENT: &str = "eventsource@5.1.5";

/// Ends a client with the test.
struct Client(Child);

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/services/clients").join(name)
}

/// Where a client of others is installed, if it can be. Without the program or the network the test is skipped.
#[track_caller]
fn installed(name: &str, install: impl FnOnce(&Path) -> Command) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name.replace(['=', '@'], "-"));
    let done = folder.join("installed");
    if done.exists() {
        return Some(folder);
    }
    fs::create_dir_all(&folder).expect("a folder for the client");
    let output = install(&folder).stdin(Stdio::null()).output();
    let why = match &output {
        Ok(output) if output.status.success() => {
            File::create(done).expect("a note that it is installed");
            return Some(folder);
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    let strict = std::env::var_os("ROUNDELAY_NO_SKIP").is_some_and(|value| value == "1");
    assert!(!strict, "ROUNDELAY_NO_SKIP=1 and {name} cannot be installed: {why}");
    drop(writeln!(stderr(), "skipped: {name} cannot be installed: {}", why.lines().last().unwrap_or_default()));
    None
}

/// A client follows a node that is killed meanwhile: it has to get every event once, in order, without a gap.
#[track_caller]
fn assert_follows(client: impl FnOnce(&str, &str, &str) -> Command) {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
    let mut mesh = Mesh::empty();
    mesh.start(&[], &["--api", &port.to_string()]);
    let node = &mesh[0];
    let publish = |ids: std::ops::RangeInclusive<u32>| {
        let events: Vec<_> = ids
            .map(|id| json!({"specversion": "1.0", "id": id.to_string(), "source": "/s", "type": "t", "data": {"ü": id}}))
            .collect();
        let (path, kind) = ("/v1/topics/a/events", "application/cloudevents-batch+json");
        node.http().post(path, kind, Value::Array(events).to_string()).expect(201);
    };
    publish(1..=3);
    let token = fs::read_to_string(node.home.join("api.token")).expect("a token");
    let (out, err) = (node.home.with_extension("followed"), node.home.with_extension("follower-said"));
    let mut command = client(&format!("http://127.0.0.1:{port}"), token.trim(), "9");
    command.stdin(Stdio::null());
    command.stdout(File::create(&out).expect("a file")).stderr(File::create(&err).expect("a file"));
    let mut client = Client(command.spawn().expect("the client starts"));
    let said = || fs::read_to_string(&out).unwrap_or_default();
    let errors = || fs::read_to_string(&err).unwrap_or_default();
    within(DEADLINE, "the client has caught up", || {
        let ended = client.0.try_wait().expect("wait for the client");
        assert!(ended.is_none(), "the client ended: {}{}", said(), errors());
        said().contains("caught-up")
    });
    publish(4..=5);
    within(DEADLINE, "the client follows", || said().lines().filter(|line| line.starts_with("event ")).count() == 5);
    node.kill();
    node.start();
    publish(6..=9);
    within(DEADLINE, "the client comes again", || client.0.try_wait().expect("wait for the client").is_some());

    let said = said();
    let ids: Vec<_> = said
        .lines()
        .filter_map(|line| line.strip_prefix("event "))
        .map(|data| serde_json::from_str::<Value>(data).expect("an event in JSON"))
        .map(|event| {
            assert_eq!(event["data"]["ü"].to_string(), event["id"].as_str().expect("an id"));
            event["id"].as_str().expect("an id").to_owned()
        })
        .collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5", "6", "7", "8", "9"], "{said}{}", errors());
    assert!(!said.contains("gap"), "{said}");
}

#[test]
fn a_client_in_python_misses_nothing() {
    let install = |folder: &Path| {
        let mut command = Command::new("python3");
        command.args(["-m", "pip", "install", "--quiet", "--target"]).arg(folder).arg(PYTHON_CLIENT);
        command
    };
    let Some(folder) = installed(PYTHON_CLIENT, install) else { return };
    assert_follows(|url, token, last| {
        let mut command = Command::new("python3");
        command.arg(script("follow.py")).args([url, token, last]).env("PYTHONPATH", folder);
        command
    });
}

#[test]
fn a_client_in_javascript_misses_nothing() {
    let install = |folder: &Path| {
        let mut command = Command::new("npm");
        command.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(folder).arg(NODE_CLIENT);
        command
    };
    let Some(folder) = installed(NODE_CLIENT, install) else { return };
    // Modules are looked for from where the script is.
    let copy = folder.join("follow.mjs");
    fs::copy(script("follow.mjs"), &copy).expect("copy the script");
    assert_follows(|url, token, last| {
        let mut command = Command::new("node");
        command.arg(copy).args([url, token, last]);
        command
    });
}
