//! What is published together, over several topics and with marks, is stored and acknowledged together.

use roundelay_protocol::event::{EncodedEvent, Event};
use roundelay_protocol::replica::{Effect, Input, Place, Room};
use roundelay_protocol::sequencer::Part;
use roundelay_protocol::topic::Topic;
use roundelay_protocol::write_set::Mark;

use super::{SimMesh, SimNode};

const ID: u64 = 1_000;

fn event(id: &str) -> EncodedEvent {
    let event = Event { kind: "t".into(), id: id.into(), source: "s".into(), ..Event::default() };
    event.encode().unwrap()
}

fn part(topic: &str, count: usize) -> Part {
    let events = (0..count).map(|nth| event(&format!("{topic}-{nth}"))).collect();
    Part { topic: Topic::new(topic).unwrap(), events }
}

fn mark(value: &[u8]) -> Vec<Mark> {
    vec![(b"cursor".to_vec(), Some(value.to_vec()))]
}

fn transaction(parts: Vec<Part>, acks: u32) -> Input {
    Input::Publish { id: ID, parts: parts.into(), marks: mark(b"7"), acks }
}

fn places(effects: &[Effect]) -> Vec<Place> {
    let places = effects.iter().filter_map(|effect| match effect {
        Effect::Published { id: ID, places, .. } => Some(places.to_vec()),
        _ => None,
    });
    let places: Vec<_> = places.collect();
    assert_eq!(places.len(), 1, "it is reported once");
    places.into_iter().next().unwrap()
}

#[test]
fn events_of_several_topics_and_a_mark_are_one_write() {
    let mut mesh = SimMesh::new(1);
    mesh.publish(0, "b", 3);
    mesh.run(100);
    let now = mesh.now();
    let node = &mut mesh.nodes[0];
    // Two writes under way, so that this one has to wait with what else is published.
    for topic in ["x", "y"] {
        node.publish(now, topic, 1);
    }
    node.publish(now, "a", 2);
    node.handle(now, transaction(vec![part("a", 2), part("b", 700), part("a", 1)], 0));
    node.publish(now, "b", 1);
    assert_eq!(node.underway().count(), 2);
    let written = node.sync(now);
    assert!(!written.iter().any(|effect| matches!(effect, Effect::Published { id: ID, .. })), "it is not durable");
    let holding: Vec<_> = node.underway().filter(|set| !set.marks.is_empty()).collect();
    assert_eq!(holding.len(), 1);
    let topics: Vec<_> = holding[0].batches.iter().map(|batch| batch.header().topic.to_string()).collect();
    assert_eq!((topics.contains(&"a".into()), topics.contains(&"b".into())), (true, true), "{topics:?}");
    assert_eq!(node.mark(b"cursor"), None);
    let places = places(&node.sync(now));
    assert_eq!(places.iter().map(|place| place.first_seq).collect::<Vec<_>>(), [3, 4, 5]);
    assert_eq!(node.mark(b"cursor").map(Vec::as_slice), Some(&b"7"[..]));
    let stamps: Vec<_> = places.iter().map(|place| place.first_hlc).collect();
    assert!(stamps[0] < stamps[2], "{stamps:?}");
    assert_eq!(node.contents().len(), 3 + 2 + 2 + 703 + 1);
}

#[test]
fn it_counts_as_held_by_a_peer_that_holds_all_of_it() {
    let mut mesh = SimMesh::new(3);
    let now = mesh.now();
    mesh.nodes[2].subscribe(now, &["a"]);
    mesh.link(0, 1);
    mesh.link(0, 2);
    mesh.run(1_000);
    mesh.input(0, transaction(vec![part("a", 2), part("b", 2)], 2));
    mesh.run(10_000);
    assert_eq!(mesh.nodes[2].contents().len(), 2);
    assert_eq!(mesh.acked, [(ID, 1)], "the one that holds a half does not count");
    let now = mesh.now();
    let effects = mesh.nodes[2].subscribe(now, &[">"]);
    mesh.carry_out(2, effects);
    mesh.run(10_000);
    assert_eq!(mesh.acked, [(ID, 1), (ID, 2)]);
}

#[test]
fn a_full_store_takes_marks_but_no_events_and_a_full_disk_neither() {
    let mut mesh = SimMesh::of(vec![SimNode::new(1, 10_000)]);
    for _ in 0..200 {
        mesh.publish(0, "a", 1);
        mesh.run(20);
    }
    let refused = mesh.nodes[0].refused;
    assert!(refused > 0, "the store is full of what no peer has");
    mesh.input(0, transaction(vec![part("a", 1)], 0));
    mesh.run(100);
    assert_eq!((mesh.nodes[0].refused, mesh.nodes[0].mark(b"cursor")), (refused + 1, None));
    mesh.input(0, transaction(vec![], 0));
    mesh.run(100);
    assert_eq!((mesh.nodes[0].refused, mesh.nodes[0].mark(b"cursor").is_some()), (refused + 1, true));
    mesh.input(0, Input::Room(Room::None));
    mesh.input(0, transaction(vec![], 0));
    assert_eq!(mesh.nodes[0].refused, refused + 2);
}
