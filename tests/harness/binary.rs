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
        None => build(&[]).join("roundelay"),
    })
}

/// Builds it, and what else is named, for the profile and target folder of this test; gives the folder that it is in.
pub(crate) fn build(further: &[&str]) -> PathBuf {
    // target/<profile>/deps/<this test>
    let this = std::env::current_exe().expect("the path of this test");
    let profile_dir = this.ancestors().nth(2).expect("target/<profile>");
    let target_dir = profile_dir.parent().expect("target");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()).expect("a profile") {
        "debug" => "dev",
        other => other,
    };
    // Naming this test too selects the same features of the dependencies as `cargo test` did: nothing is built twice.
    let mut command = Command::new(env!("CARGO"));
    // What `cargo test` says of this package to this process is no setting of the build: some dependencies would be built anew.
    let is_about_this = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_about_this)) {
        command.env_remove(name);
    }
    let status = command
        .args(["build", "-q", "-p", "roundelay", "--bin", "roundelay", "-p", "roundelay-workspace", "--test", "mesh"])
        .args(["--profile", profile])
        .args(further)
        .arg("--target-dir")
        .arg(target_dir)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo starts");
    assert!(status.success(), "cargo could not build roundelay {further:?}");
    profile_dir.to_owned()
}
