//! What the program is built from: where it comes from, what it must not be older than, and how it is built.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
/// Versions below these can be crashed by any peer, and the advisory database does not know. deny.toml says the same.
const FLOORS: [(&str, [u64; 3]); 2] = [("libp2p-gossipsub", [0, 50, 1]), ("yamux", [0, 13, 10])];
/// The lock files: of the workspace, and of the fuzz targets.
const LOCKS: [&str; 2] = ["Cargo.lock", "fuzz/Cargo.lock"];

fn read(name: &str) -> toml::Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn packages(lock: &str) -> Vec<toml::Table> {
    let packages = read(lock)["package"].as_array().expect("a list of packages").clone();
    packages.iter().map(|package| package.as_table().expect("a package").clone()).collect()
}

fn version(text: &str) -> [u64; 3] {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<u64> = core.split('.').map(|part| part.parse().expect("a number")).collect();
    parts.try_into().expect("three numbers")
}

/// What in a lock file is older than it may be.
fn too_old(packages: &[toml::Table]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, floor) in FLOORS {
        let of_name = packages.iter().filter(|package| package["name"].as_str() == Some(name));
        let versions: Vec<[u64; 3]> =
            of_name.map(|package| version(package["version"].as_str().expect("a version"))).collect();
        if versions.is_empty() {
            found.push(format!("{name} is not there"));
        }
        let old = versions.iter().filter(|version| **version < floor);
        found.extend(old.map(|version| format!("{name} {version:?} is below {floor:?}")));
    }
    found
}

#[test]
fn no_peer_can_crash_it_through_an_old_gossipsub_or_yamux() {
    for lock in LOCKS {
        assert_eq!(too_old(&packages(lock)), Vec::<String>::new(), "{lock}");
    }
    let deny = read("deny.toml");
    let denied: Vec<&str> =
        deny["bans"]["deny"].as_array().expect("a list").iter().filter_map(|ban| ban["crate"].as_str()).collect();
    for needed in ["libp2p-gossipsub:<0.50.1", "yamux:>=0.13, <0.13.10"] {
        assert!(denied.contains(&needed), "deny.toml does not refuse {needed}");
    }
}

#[test]
fn an_older_version_would_be_noticed() {
    for (name, [major, minor, patch]) in FLOORS {
        let mut packages = packages(LOCKS[0]);
        let newest = packages.iter_mut().rfind(|package| package["name"].as_str() == Some(name));
        newest.expect("it is there").insert("version".into(), format!("{major}.{minor}.{}", patch - 1).into());
        assert_eq!(too_old(&packages).len(), 1, "{name}");
    }
}

#[test]
fn everything_comes_from_the_one_registry_and_is_pinned_by_a_checksum() {
    for lock in LOCKS {
        let mut own: Vec<String> = Vec::new();
        for package in packages(lock) {
            let name = package["name"].as_str().expect("a name");
            match package.get("source").and_then(toml::Value::as_str) {
                None => own.push(name.to_owned()),
                Some(source) => {
                    assert_eq!(source, REGISTRY, "{lock}: {name}");
                    assert!(package.contains_key("checksum"), "{lock}: {name} has no checksum");
                }
            }
        }
        let expected = match lock {
            "Cargo.lock" => vec!["roundelay", "roundelay-protocol", "roundelay-workspace"],
            _ => vec!["roundelay", "roundelay-fuzz", "roundelay-protocol"],
        };
        assert_eq!(own, expected, "{lock}: no other package is a path");
    }
}

#[test]
fn the_fuzz_targets_are_built_from_the_same_versions() {
    let of = |lock| {
        let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for package in packages(lock) {
            let text = |field| package[field].as_str().expect("a text").to_owned();
            versions.entry(text("name")).or_default().push(text("version"));
        }
        versions
    };
    let main = of("Cargo.lock");
    for (name, versions) in of("fuzz/Cargo.lock") {
        let Some(expected) = main.get(&name) else { continue };
        assert!(versions.iter().all(|version| expected.contains(version)), "{name}: {versions:?}, {expected:?}");
    }
}

#[test]
fn arithmetic_that_overflows_stops_a_released_program_too() {
    for manifest in ["Cargo.toml", "fuzz/Cargo.toml"] {
        let release = read(manifest)["profile"]["release"].as_table().expect("a profile").clone();
        assert_eq!(release.get("overflow-checks").and_then(toml::Value::as_bool), Some(true), "{manifest}");
        assert!(!release.contains_key("package"), "{manifest}: it holds for every package");
    }
    // Nothing in the environment or a nearby config may switch it off again for what is built here.
    let grown = std::hint::black_box(u64::MAX);
    let overflow = std::panic::catch_unwind(|| grown + std::hint::black_box(1));
    assert!(overflow.is_err(), "an overflow went unnoticed");
}

/// Packages that come in several versions in the lock file alone: cargo-deny does not meet the older ones, because no
/// feature or test that is built here brings them.
const LOCKED_ONLY: [&str; 4] = ["base64", "shlex", "synstructure", "yasna"];

/// The packages of which deny.toml lets several versions be linked.
fn skipped() -> BTreeSet<String> {
    let deny = read("deny.toml");
    assert_eq!(deny["bans"]["multiple-versions"].as_str(), Some("deny"));
    let skips = deny["bans"]["skip"].as_array().expect("a list").iter();
    let names = skips.map(|skip| skip["crate"].as_str().and_then(|spec| spec.split('@').next()).expect("a package"));
    names.map(str::to_owned).collect()
}

#[test]
fn no_further_package_comes_in_several_versions() {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for package in packages("Cargo.lock") {
        *count.entry(package["name"].as_str().expect("a name").to_owned()).or_default() += 1;
    }
    let several: BTreeSet<String> =
        count.into_iter().filter(|(_, versions)| *versions > 1).map(|(name, _)| name).collect();
    let mut expected = skipped();
    expected.extend(LOCKED_ONLY.map(str::to_owned));
    assert_eq!(several, expected, "skip it in deny.toml with the reason, or take it out, if that is how it must be");
}
