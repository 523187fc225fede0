//! Who comes late gets the history, from whoever has it.

use crate::harness::{Mesh, Subscriber, assert_delivered, lines};

#[test]
fn a_late_joiner_gets_the_history() {
    let mut mesh = Mesh::star(2);
    let mut published = mesh[0].publish_lines("orders.placed", &lines("early", 1000));
    published.extend(mesh[1].publish_lines("orders.placed", &lines("early-too", 1000)));
    let late = mesh.start(&[1], &[]);
    mesh.count("orders.placed", 2000, [late]);
    mesh.converge(mesh.all());
    mesh.holds("orders.placed", &published, [late]);
}

#[test]
fn a_late_joiner_gets_what_an_author_left_behind() {
    let mut mesh = Mesh::star(2);
    let published = mesh[0].publish_lines("orders.placed", &lines("testament", 500));
    mesh.count("orders.placed", 500, [1]);
    mesh[0].stop();
    let late = mesh.start(&[1], &[]);
    mesh.count("orders.placed", 500, [late]);
    mesh.holds("orders.placed", &published, [1, late]);
    mesh[late].verify();
}

#[test]
fn history_and_what_is_new_come_to_a_subscription_as_one() {
    let mut mesh = Mesh::star(1);
    mesh[0].publish_lines("orders.placed", &lines("old", 500));
    let late = mesh.start(&[0], &[]);
    let subscriber = Subscriber::start(&mesh[late], "orders.placed");
    mesh[0].publish_lines("orders.placed", &lines("new", 500));
    let events = subscriber.wait_for(1000);
    assert_delivered(&events);
    assert_eq!((&events[0].data, &events[999].data), (&"old-0".into(), &"new-499".into()));
}
