//! A declaration is checked before it is published, and reaches every node.

use std::fs;

use super::orders::{NAME, SAGA, declare, json};
use crate::harness::{Mesh, eventually, exit};

/// The declaration without the deadline of a state, and with a role that does not see what it has to.
fn flawed() -> String {
    let text = fs::read_to_string(SAGA).expect("the example");
    let without = text.replace(r#"deadline = { after = "30s", event = "order.expired", to = "declined" }"#, "");
    assert_ne!(text, without);
    without
}

#[test]
fn a_declaration_with_flaws_is_refused_with_all_of_them_unless_it_is_forced() {
    let mesh = Mesh::star(1);
    let node = &mesh[0];
    let file = mesh.folder().join("flawed.toml");
    fs::write(&file, flawed()).expect("a file");
    let file = file.to_str().expect("a path");

    let checked = node.cli(&["choreography", "check", file]).expect(exit::FAILURE);
    for code in ["endless_wait", "unused_event"] {
        assert!(checked.stdout.contains(code), "{code}: {}", checked.stdout);
    }
    let refused = node.cli(&["choreography", "publish", file]).expect(exit::FAILURE);
    assert_eq!(refused.stdout, checked.stdout, "the node finds what the check finds");
    let problem = node.http().post("/v1/choreographies", "application/toml", flawed());
    let problem = problem.expect_problem(400, "bad_choreography");
    assert_eq!(problem["findings"].as_array().map(Vec::len), Some(checked.stdout.lines().count()));
    assert_eq!(json(node, &["choreography", "ls"])["choreographies"], serde_json::json!([]));

    let forced = node.cli(&["choreography", "publish", file, "--force"]).expect(exit::OK);
    assert!(forced.stderr.contains("in spite of"), "{}", forced.stderr);
    assert_eq!(json(node, &["choreography", "ls"])["choreographies"][0]["version"], forced.stdout.trim());
}

#[test]
fn what_is_no_declaration_is_refused_with_the_reason() {
    let mesh = Mesh::star(1);
    let http = mesh[0].http();
    let post = |body: &str| http.post("/v1/choreographies", "", body).expect_problem(400, "bad_choreography");
    assert!(post("format = ").to_string().contains("TOML"));
    assert!(post("{\"format\": 1").to_string().contains("JSON"));
    let unsound = post(r#"{"format": 2, "name": "a b", "start": "new", "roles": {}, "events": {}, "states": {}}"#);
    let codes: Vec<_> = unsound["findings"].as_array().expect("a list").iter().map(|it| it["code"].clone()).collect();
    assert_eq!(codes, ["bad_format", "bad_name", "unknown_state"]);
    http.post("/v1/choreographies?force=true", "", "{}").expect_problem(400, "bad_choreography");
}

#[test]
fn a_declaration_is_the_same_from_toml_and_json_and_reaches_nodes_that_come_later() {
    let mut mesh = Mesh::star(1);
    let version = declare(&mesh[0], []);
    let shown = json(&mesh[0], &["choreography", "show", SAGA]).to_string();
    let again = mesh[0].http().post("/v1/choreographies", "application/json", shown).expect(200).json();
    assert_eq!((again["version"].as_str(), &again["is_new"]), (Some(version.as_str()), &false.into()));
    // One that subscribes to nothing of it.
    let later = mesh.start(&[0], &["--topic", "weather"]);
    eventually("the choreography is known", || {
        json(&mesh[later], &["choreography", "ls"]).to_string().contains(&version)
    });
    for format in ["text", "mermaid", "dot"] {
        let of_file = mesh[later].cli(&["choreography", "show", SAGA, "--format", format]).expect(exit::OK).stdout;
        let of_node = mesh[later].cli(&["choreography", "show", NAME, "--format", format]).expect(exit::OK).stdout;
        let path = format!("/v1/choreographies/{NAME}?format={format}");
        assert_eq!(of_file, of_node);
        assert_eq!(of_file, mesh[later].http().get(&path).expect(200).text());
    }
    let none = mesh[later].cli(&["choreography", "diff", NAME, SAGA]).expect(exit::OK);
    assert_eq!(none.stdout, "");
}
