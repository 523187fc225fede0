//! The description of the API, and that it is true.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::Value;

use crate::harness::Mesh;

#[test]
fn every_route_that_is_described_is_there() {
    let mesh = Mesh::star(1);
    let http = mesh[0].http();
    let answer = http.get("/v1/openapi.json").expect(200);
    assert_eq!(answer.content_type, "application/json");
    let api = answer.json();
    let paths = api["paths"].as_object().expect("paths");
    assert!(paths.contains_key("/v1/topics/{topic}/events"), "{:?}", paths.keys());

    for (path, operations) in paths {
        for (name, operation) in operations.as_object().expect("operations") {
            assert!(operation["summary"].is_string() && operation["tags"].is_array(), "{name} {path} says little");
            assert!(operation["responses"]["default"].is_object(), "{name} {path} knows no problems");
            // What the path stands for is no such thing, so that nothing is done; but a route answers.
            let method = Method::from_bytes(name.to_uppercase().as_bytes()).expect("a method");
            if path.contains('{') && method != Method::GET {
                let nothing = path.replace(['{', '}'], "%20");
                let problem = http.send(method, &nothing, &[], "").json();
                assert_ne!(problem["title"], "The method is not known here", "{name} {path}");
                assert!(
                    !problem["detail"].as_str().is_some_and(|detail| detail.starts_with("there is no /")),
                    "{path}"
                );
            }
        }
    }
    http.get("/v1/nothing").expect_problem(404, "not_found");
    http.send(Method::DELETE, "/v1/status", &[], "").expect_problem(405, "method_not_allowed");
}

#[test]
fn every_name_that_it_uses_is_explained() {
    let mesh = Mesh::star(1);
    let api = mesh[0].http().get("/v1/openapi.json").expect(200).json();
    let mut used = BTreeSet::new();
    references(&api, &mut used);
    assert!(used.contains("#/components/schemas/Problem"), "{used:?}");
    for reference in used {
        let pointer = reference.trim_start_matches('#');
        assert!(api.pointer(pointer).is_some(), "{reference} is nowhere");
    }
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}
