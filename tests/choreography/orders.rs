//! Orders, as the services of `examples/declarations/order_saga.toml` publish them.

use serde_json::Value;

use crate::harness::{Node, eventually, exit};

/// The declaration that the tests publish.
pub(crate) const SAGA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/declarations/order_saga.toml");
/// Its name.
pub(crate) const NAME: &str = "order-saga";

/// An event of an order: its type, its id, and the id of its cause, if it has one.
pub(crate) type Step<'a> = (&'a str, &'a str, &'a str);

/// Publishes events of one order, each as the role that emits its type.
#[track_caller]
pub(crate) fn publish(node: &Node, order: &str, steps: &[Step<'_>]) {
    for (kind, id, cause) in steps {
        let service = kind.split('.').next().expect("a service");
        let (role, topic) = match service {
            "order" => ("shop", "orders.placed".to_owned()),
            _ => (service, format!("orders.{service}")),
        };
        let (role, source) = (format!("role={role}"), format!("/{role}"));
        let mut args = vec!["pub", &topic, "{}", "--type", kind, "--id", id, "--correlation", order];
        args.extend(["--source", &source, "-H", &role]);
        if !cause.is_empty() {
            args.extend(["--cause", cause]);
        }
        node.cli(&args).expect(exit::OK);
    }
}

/// Publishes the declaration on one node and waits until these know it.
#[track_caller]
pub(crate) fn declare<'a>(node: &Node, nodes: impl IntoIterator<Item = &'a Node>) -> String {
    let published = node.cli(&["choreography", "publish", SAGA]).expect(exit::OK);
    let version = published.stdout.trim().to_owned();
    for node in nodes {
        eventually("the choreography is known", || json(node, &["choreography", "ls"]).to_string().contains(&version));
    }
    version
}

/// What a command prints in JSON.
#[track_caller]
pub(crate) fn json(node: &Node, args: &[&str]) -> Value {
    let done = node.cli(&[args, &["--json"]].concat()).expect(exit::OK);
    serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}", done.stdout))
}

/// Every instance, as a node judges it.
#[track_caller]
pub(crate) fn instances(node: &Node) -> Value {
    json(node, &["instances", NAME])["instances"].clone()
}

/// State and verdict of an order.
#[track_caller]
pub(crate) fn judged(node: &Node, order: &str) -> (String, String) {
    let detail = json(node, &["instances", NAME, order]);
    let text = |member: &str| detail["instance"][member].as_str().unwrap_or_default().to_owned();
    (text("state"), text("verdict"))
}
