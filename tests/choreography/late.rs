//! What was decided on both sides of a partition is judged anew when they meet, and alike.

use super::orders::{declare, instances, json, judged, publish};
use crate::harness::Mesh;

#[test]
fn of_two_answers_from_both_sides_of_a_partition_the_first_counts_on_every_node() {
    let mesh = Mesh::star(2);
    mesh.connected(mesh.all());
    declare(&mesh[0], [&mesh[0], &mesh[1]]);
    publish(&mesh[0], "o-1", &[("order.placed", "1", "")]);
    mesh.converge(mesh.all());

    mesh.network.partition(&[&[0], &[1]]);
    publish(&mesh[1], "o-1", &[("stock.refused", "2", "1")]);
    publish(&mesh[0], "o-1", &[("stock.reserved", "3", "1"), ("payment.accepted", "4", "3")]);
    assert_eq!(judged(&mesh[0], "o-1"), ("paid".into(), "pending".into()));
    assert_eq!(judged(&mesh[1], "o-1"), ("declined".into(), "conforming".into()));

    mesh.network.heal();
    mesh.converge(mesh.all());
    for node in [&mesh[0], &mesh[1]] {
        assert_eq!(judged(node, "o-1"), ("declined".into(), "superseded".into()));
        let detail = json(node, &["instances", "order-saga", "o-1"]);
        let superseded = detail["superseded"].as_array().expect("a list");
        let named: Vec<_> = superseded.iter().map(|it| (&it["event"]["id"], &it["why"], &it["by"]["id"])).collect();
        assert_eq!(
            format!("{named:?}"),
            r#"[(String("3"), String("duplicate"), String("2")), (String("4"), String("consequence"), String("2"))]"#
        );
        // The payment was made in vain. The goods were not: the refusal is of another type, so that they are owed too.
        let owed: Vec<_> = detail["owed"].as_array().expect("a list").iter().map(|it| &it["compensation"]).collect();
        assert_eq!(format!("{owed:?}"), r#"[String("stock.released"), String("payment.refunded")]"#);
    }
    assert_eq!(instances(&mesh[0]), instances(&mesh[1]));
    let status = &json(&mesh[0], &["choreography", "ls"])["choreographies"][0];
    assert_eq!(status["refolded"], 1, "the refusal came late to the node that had taken the reservation: {status}");

    // What was done in vain is undone, late as it is.
    publish(&mesh[1], "o-1", &[("payment.refunded", "5", "4"), ("stock.released", "6", "3")]);
    mesh.converge(mesh.all());
    for node in [&mesh[0], &mesh[1]] {
        assert_eq!(json(node, &["instances", "order-saga", "o-1"])["owed"], serde_json::json!([]));
    }
}
