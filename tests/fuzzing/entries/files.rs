//! The files of a home that people write: the settings and the keys.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use roundelay::config::{Options, Settings};
use roundelay::home::Home;
use roundelay::identity::{load_or_create, read_mesh_key};
use roundelay_protocol::limits::MAX_PATTERNS;
use tempfile::TempDir;

thread_local! {
    /// One folder for all cases of a thread; the files in it are replaced.
    static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) };
}

/// Any bytes as `config.toml`, as an identity and as the key of a mesh.
pub fn files(bytes: &[u8]) {
    FOLDER.with_borrow_mut(|folder| {
        let folder = folder.get_or_insert_with(|| tempfile::tempdir().expect("a folder"));
        settings(&Home::at(folder.path()), bytes);
        keys(&folder.path().join("key"), bytes);
    });
}

fn settings(home: &Home, bytes: &[u8]) {
    fs::write(home.config_path(), bytes).expect("the file is written");
    // The port in use is not the file's business; anything else must not depend on the environment.
    let options = Options { listen: vec!["/ip4/127.0.0.1/tcp/4001".into()], ..Options::default() };
    match Settings::load(home, &options) {
        Ok(settings) => {
            assert!(1 <= settings.min_links && settings.min_links <= settings.max_links);
            assert!(settings.topics.len() <= MAX_PATTERNS && settings.join.len() <= MAX_PATTERNS);
            assert!((1..=64).contains(&settings.name.len()) && (1..=64).contains(&settings.mesh.len()));
            assert!(!settings.name.chars().any(char::is_control));
            assert!(settings.store_cap_bytes >= 16 << 20);
            // The file that a first start writes says the same again.
            fs::remove_file(home.config_path()).expect("the file is there");
            settings.write_first(home).expect("the file is written");
            let again = Settings::load(home, &options).expect("what is written can be read");
            let told = |settings: &Settings| {
                let Settings { name, mesh, mesh_key_file, listen, .. } = settings.clone();
                (name, mesh, mesh_key_file, listen)
            };
            assert_eq!(told(&again), told(&settings));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn keys(path: &std::path::Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("the file is written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("its mode is set");
    let digits: Vec<u8> = bytes.iter().copied().filter(u8::is_ascii_hexdigit).collect();
    let (identity, mesh) = (load_or_create(path), read_mesh_key(path));
    if identity.is_ok() || mesh.is_ok() {
        assert!(digits.len() >= 64, "a key is 64 hexadecimal digits");
    }
    assert_eq!(fs::read(path).expect("the file is there"), bytes, "a key file is never changed");
    if let Ok(key) = mesh {
        let line: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
        assert!(text.lines().any(|found| found.trim() == line), "the key is the line");
    }
}
