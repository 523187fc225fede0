use super::*;

fn load(home: &Home, options: &Options, variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    Settings::load_with(home, options, variable)
}

fn temp_home() -> (tempfile::TempDir, Home) {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::at(folder.path());
    (folder, home)
}

#[test]
fn the_first_file_says_what_was_in_effect() {
    let (_folder, home) = temp_home();
    let options = Options { name: Some("till \"7\"".into()), mesh: Some("shop".into()), ..Options::default() };
    let first = load(&home, &options, &[]).unwrap();
    assert_eq!(first.topics, [Pattern::all()]);
    assert!(first.mdns && first.join.is_empty() && first.store_cap_bytes >= MIN_CAP_BYTES);
    first.write_first(&home).unwrap();
    let again = load(&home, &Options::default(), &[]).unwrap();
    assert_eq!(again, first, "the port stays too");
    let text = fs::read_to_string(home.config_path()).unwrap();
    assert!(text.starts_with('#'));
    first.write_first(&home).unwrap();

    // What is commented out has the form that it needs.
    let all = text.replace("\n# ", "\n").lines().filter(|line| line.contains(" = ")).collect::<Vec<_>>().join("\n");
    let all = all.replace("/p2p/12D3Koo...", "");
    fs::write(home.config_path(), all).unwrap();
    let all = load(&home, &Options::default(), &[]).unwrap();
    assert_eq!((all.join.len(), all.advertise.len(), all.store_cap_bytes), (1, 1, 10 << 30));
}

#[test]
fn later_layers_win() {
    let (_folder, home) = temp_home();
    let file = "name = 'file'\nmesh = 'file'\nmin_links = 2\nlisten = ['/ip4/127.0.0.1/tcp/1', '/ip6/::1/tcp/2']\nmdns = false";
    fs::write(home.config_path(), file).unwrap();
    let variables = [
        ("ROUNDELAY_MESH", "variable"),
        ("ROUNDELAY_TOPICS", "a.b, c.>"),
        ("ROUNDELAY_STORE_CAP", "1 GiB"),
        ("ROUNDELAY_MDNS", "true"),
        ("ROUNDELAY_MAX_LINKS", "7"),
        ("ROUNDELAY_JOIN", ""),
        ("ROUNDELAY_SERVICE_PORT", "80"),
    ];
    let options = Options { mesh: Some("flag".into()), no_mdns: true, ..Options::default() };
    let settings = load(&home, &options, &variables).unwrap();
    assert_eq!((settings.name.as_str(), settings.mesh.as_str()), ("file", "flag"));
    assert_eq!((settings.min_links, settings.max_links, settings.store_cap_bytes), (2, 7, 1 << 30));
    assert_eq!(settings.topics, [Pattern::new("a.b").unwrap(), Pattern::new("c.>").unwrap()]);
    assert_eq!(settings.listen.len(), 2);
    assert!(!settings.mdns);
    assert!(load(&home, &Options::default(), &variables).unwrap().mdns);
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    let (_folder, home) = temp_home();
    for (file, words) in [
        ("listen = [\nthis is = no toml", ["config.toml", "cannot be understood"]),
        ("no_such_setting = 1", ["no_such_setting", "mesh_key_file"]),
        ("store.no_such = 1", ["store.no_such", "config.toml"]),
        ("store = 5", ["store", "config.toml"]),
        ("min_links = 'few'", ["min_links", "few"]),
        ("min_links = 200", ["min_links", "above max_links"]),
        ("max_links = 0", ["max_links", "from 1"]),
        ("store.cap = 'much'", ["store.cap", "much"]),
        ("store.cap = '1 MiB'", ["store.cap", "too little"]),
        ("mesh = 'a/b'", ["mesh", "a/b"]),
        ("name = \"a\\nb\"", ["name", "printable"]),
        ("topics = ['a..b']", ["topics", "a..b"]),
        ("listen = ['/ip4/1.2.3.4/udp/1/quic-v1']", ["listen", "only TCP"]),
        ("listen = ['/dns4/example.org/tcp/1']", ["listen", "example.org"]),
    ] {
        fs::write(home.config_path(), file).unwrap();
        let error = load(&home, &Options::default(), &[]).unwrap_err();
        assert!(error.is_usage());
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{file}: {text}");
    }
    fs::remove_file(home.config_path()).unwrap();
    let text = load(&home, &Options::default(), &[("ROUNDELAY_MIN_LINKS", "-1")]).unwrap_err().to_string();
    assert!(text.contains("ROUNDELAY_MIN_LINKS: min_links"), "{text}");
    for address in
        ["127.0.0.1:4001", "/ip4/127.0.0.1/tcp/notaport", "/ip4/1.1.1.1/tcp/1/p2p/nobody", "http://example.org"]
    {
        let options = Options { join: vec![address.into()], ..Options::default() };
        let text = load(&home, &options, &[]).unwrap_err().to_string();
        assert!(text.starts_with("--join") && text.contains(address), "{text}");
    }
}
