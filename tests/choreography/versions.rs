//! Several versions of a choreography run side by side: each instance by the one that it began with.

use std::fs;

use super::orders::{NAME, SAGA, declare, json, judged, publish};
use crate::harness::{Mesh, eventually, exit};

#[test]
fn instances_keep_the_version_that_they_began_with() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    let first = declare(&mesh[0], [&mesh[0], &mesh[1]]);
    publish(&mesh[0], "o-1", &[("order.placed", "1", "")]);

    // From now on goods are not reserved: payment comes at once.
    let text = fs::read_to_string(SAGA).expect("the example");
    let changed = text.replace(r#"on = { "stock.reserved" = "reserved","#, r#"on = { "stock.reserved" = "paid","#);
    assert_ne!(text, changed);
    let file = mesh.folder().join("changed.toml");
    fs::write(&file, changed).expect("a file");
    let file = file.to_str().expect("a path");
    let published = mesh[1].cli(&["choreography", "publish", file, "--force"]).expect(exit::OK);
    let second = published.stdout.trim().to_owned();
    for node in [&mesh[0], &mesh[1]] {
        eventually("both versions are known", || {
            json(node, &["choreography", "show", NAME])["versions"].as_array().map(Vec::len) == Some(2)
        });
    }
    publish(&mesh[1], "o-2", &[("order.placed", "2", ""), ("stock.reserved", "3", "2")]);
    publish(&mesh[0], "o-1", &[("stock.reserved", "4", "1")]);
    mesh.converge(mesh.all());
    for node in [&mesh[0], &mesh[1]] {
        assert_eq!(judged(node, "o-1").0, "reserved");
        assert_eq!(judged(node, "o-2").0, "paid");
        let version = |order: &str| json(node, &["instances", NAME, order])["instance"]["version"].clone();
        assert_eq!((version("o-1"), version("o-2")), (first.clone().into(), second.clone().into()));
    }

    let old = format!("{NAME}@{}", &first[..8]);
    let diff = mesh[0].cli(&["choreography", "diff", &old, NAME]).expect(exit::OK);
    assert!(diff.stdout.contains("states.placed.on[\"stock.reserved\"]"), "{}", diff.stdout);
    mesh[0].cli(&["choreography", "show", &format!("{NAME}@nothex")]).expect(exit::FAILURE).saying(&["no version"]);

    // The first holds again, for what begins from then on.
    mesh[0].cli(&["choreography", "publish", SAGA]).expect(exit::OK);
    publish(&mesh[0], "o-3", &[("order.placed", "5", ""), ("stock.reserved", "6", "5")]);
    assert_eq!(judged(&mesh[0], "o-3").0, "reserved");
}
