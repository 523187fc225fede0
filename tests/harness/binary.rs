//! Builds the executable under test and says where it is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The `roundelay` executable of the profile and target folder that this test was built in. `ROUNDELAY_TEST_BIN` names
/// another one, which is then not built.
pub(crate) fn roundelay() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("ROUNDELAY_TEST_BIN") {
        Some(path) => path.into(),
        None => build(),
    })
}

fn build() -> PathBuf {
    // target/<profile>/deps/<this test>
    let this = std::env::current_exe().expect("the path of this test");
    let profile_dir = this.ancestors().nth(2).expect("target/<profile>");
    let target_dir = profile_dir.parent().expect("target");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()).expect("a profile") {
        "debug" => "dev",
        other => other,
    };
    // Naming this test too selects the same features of the dependencies as `cargo test` did: nothing is built twice.
    let status = Command::new(env!("CARGO"))
        .args(["build", "-q", "-p", "roundelay", "--bin", "roundelay", "-p", "roundelay-workspace", "--test", "mesh"])
        .args(["--profile", profile])
        .arg("--target-dir")
        .arg(target_dir)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo starts");
    assert!(status.success(), "cargo could not build roundelay");
    profile_dir.join("roundelay")
}
