//! What caused what, from whatever node one asks.

use super::orders::{NAME, declare, json, publish};
use crate::harness::{Mesh, exit};

#[test]
fn causes_are_found_by_correlation_and_by_event_on_every_node() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    declare(&mesh[0], [&mesh[1]]);
    publish(&mesh[0], "o-1", &[("order.placed", "1", ""), ("stock.reserved", "2", "1")]);
    publish(&mesh[1], "o-1", &[("payment.accepted", "3", "2"), ("shipping.sent", "4", "lost")]);
    mesh[1]
        .cli(&["pub", "mails", "sent", "--type", "mail.sent", "--id", "5", "--source", "/mail", "--cause", "3"])
        .expect(exit::OK);
    mesh.converge(mesh.all());

    for node in [&mesh[0], &mesh[1]] {
        let trace = node.cli(&["trace", "o-1"]).expect(exit::OK).stdout;
        assert_eq!(trace, node.cli(&["trace", "3"]).expect(exit::OK).stdout, "by any of its events");
        let lines: Vec<String> = trace.lines().map(without_wait).collect();
        assert_eq!(
            lines,
            [
                "shop: order.placed (1 of /shop)",
                "  + stock: stock.reserved (2 of /stock)",
                "    + payment: payment.accepted (3 of /payment)",
                "shipping: shipping.sent (4 of /shipping); cause missing: lost",
            ]
        );
        let why = node.cli(&["why", "3"]).expect(exit::OK).stdout;
        assert_eq!(
            why,
            "payment: payment.accepted (3 of /payment)\n  stock: stock.reserved (2 of /stock)\n    shop: order.placed (1 of /shop)\n"
        );
        // An event without a correlation id is found by its causes, and so is what caused it.
        let kinds = |report: serde_json::Value| {
            let events = report["events"].as_array().expect("events").clone();
            events.iter().map(|event| event["type"].as_str().expect("a type").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            kinds(json(node, &["trace", "5"])),
            ["order.placed", "stock.reserved", "payment.accepted", "mail.sent"]
        );
        assert_eq!(json(node, &["trace", "5"])["scan"]["is_whole"], true);
        let drawn = node.cli(&["trace", "o-1", "--format", "mermaid"]).expect(exit::OK).stdout;
        assert!(drawn.starts_with("flowchart TD") && drawn.contains("lost is missing"), "{drawn}");
    }
}

#[test]
fn a_flow_tells_who_reacts_to_what_and_what_is_not_declared() {
    let mesh = Mesh::star(1);
    declare(&mesh[0], []);
    for order in ["a", "b"] {
        let ids = ["1", "2", "3"].map(|id| format!("{order}-{id}"));
        let steps = [
            ("order.placed", &*ids[0], ""),
            ("stock.reserved", &ids[1], &*ids[0]),
            ("shipping.sent", &ids[2], &*ids[0]),
        ];
        publish(&mesh[0], order, &steps);
    }
    publish(&mesh[0], "c", &[("payment.accepted", "c-1", "")]);
    let flow = mesh[0].cli(&["flow", "--since", "1h", "--choreography", NAME]).expect(exit::OK).stdout;
    assert!(flow.contains("order.placed (shop) -> stock.reserved (stock): 2"), "{flow}");
    assert!(flow.contains("not declared: order.placed -> shipping.sent: 2"), "{flow}");
    // Of what did not happen at all, no edge is told.
    assert!(flow.contains("not seen: stock.reserved -> payment.accepted"), "{flow}");
    assert!(!flow.contains("-> order.expired"), "{flow}");
    assert!(flow.contains("\nwithout an event: order.expired, order.unpaid, "), "{flow}");
    let report = json(&mesh[0], &["flow"]);
    assert_eq!(report["edges"].as_array().map(Vec::len), Some(2));
    assert_eq!(report["stations"].as_array().map(Vec::len), Some(4));
    let drawn = mesh[0].cli(&["flow", "--format", "dot"]).expect(exit::OK).stdout;
    assert!(drawn.starts_with("digraph flow {"), "{drawn}");
}

/// A line of a trace without the time that its event took.
fn without_wait(line: &str) -> String {
    let Some((indent, rest)) = line.split_once('+') else { return line.to_owned() };
    format!("{indent}+ {}", rest.split_once(' ').map_or("", |(_, rest)| rest))
}
