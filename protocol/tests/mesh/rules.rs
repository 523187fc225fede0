//! Rules by topic: what goes, what stays, who may write, and that nodes of other rules agree on the rest.

use roundelay_protocol::batch::Link;
use roundelay_protocol::frame::Frame;
use roundelay_protocol::replica::{Effect, Input};
use roundelay_protocol::rules::{Rule, Rules};
use roundelay_protocol::topic::Pattern;

use super::SimMesh;
use super::liars::{at, heads_of, linked, seal};
use super::node::{SimNode, Stamp};

fn count(node: &SimNode, topic: &str) -> usize {
    node.contents().iter().filter(|event| event.1 == topic).count()
}

fn publish(mesh: &mut SimMesh, index: usize, topic: &str, batches: usize) {
    for _ in 0..batches {
        mesh.publish(index, topic, 5);
        mesh.run(20);
    }
}

fn max_events(max: u64) -> Option<Rule> {
    Some(Rule { max_events: Some(max), ..Rule::default() })
}

#[test]
fn a_topic_keeps_the_last_of_what_its_rule_allows_and_nothing_comes_back() {
    let mut mesh = SimMesh::new(3);
    mesh.set_rule(1, "small", max_events(50));
    mesh.set_rule(1, ">", Some(Rule { max_bytes: Some(10_000), ..Rule::default() }));
    mesh.link(0, 1);
    mesh.link(1, 2);
    for _ in 0..20 {
        publish(&mut mesh, 0, "small", 5);
        publish(&mut mesh, 2, "small", 1);
        publish(&mut mesh, 0, "large", 5);
    }
    mesh.run(20_000);
    let kept = count(&mesh.nodes[1], "small");
    assert!((45..=50).contains(&kept), "{kept}");
    assert_eq!(count(&mesh.nodes[0], "large"), 500);
    let bytes: usize = mesh.nodes[1]
        .batches()
        .iter()
        .filter(|batch| batch.header().topic.as_str() == "large")
        .map(|batch| batch.bytes().len())
        .sum();
    assert!((8_000..=10_000).contains(&bytes), "{bytes}");
    // The last ones, of every author.
    let all = mesh.nodes[0].contents();
    let last = mesh.nodes[1].contents();
    assert!(
        last.iter().filter(|event| event.1 == "small").all(|event| event.2 > 400 || event.0 == mesh.nodes[2].author())
    );
    assert!(last.is_subset(&all));
    let before = last;
    for (a, b) in [(0, 1), (1, 2)] {
        mesh.cut(a, b);
    }
    mesh.run(5_000);
    mesh.link(1, 2);
    mesh.link(0, 1);
    mesh.run(30_000);
    super::same(&mesh.nodes[1].contents(), &before);
    for node in &mesh.nodes {
        assert_eq!(node.digests(), mesh.nodes[0].digests());
        assert!(node.replica.links().iter().all(|link| link.in_sync));
    }
}

#[test]
fn own_events_that_nobody_has_and_the_last_batch_stay_beyond_a_rule() {
    let mut mesh = SimMesh::new(2);
    mesh.set_rule(0, "a", max_events(1));
    publish(&mut mesh, 0, "a", 20);
    mesh.run(20_000);
    assert_eq!(count(&mesh.nodes[0], "a"), 100);
    mesh.link(0, 1);
    mesh.run(20_000);
    assert_eq!((count(&mesh.nodes[0], "a"), count(&mesh.nodes[1], "a")), (5, 100));
}

#[test]
fn what_is_old_goes_when_it_has_been_here_for_as_long_also_over_restarts() {
    let mut mesh = SimMesh::new(2);
    mesh.set_rule(1, "a", Some(Rule { max_age_ms: Some(100_000), ..Rule::default() }));
    publish(&mut mesh, 0, "a", 10);
    publish(&mut mesh, 0, "b", 10);
    mesh.run(90_000);
    mesh.link(0, 1);
    mesh.run(70_000);
    // Old by its stamps, and just come.
    assert_eq!(count(&mesh.nodes[1], "a"), 50);
    mesh.cut(0, 1);
    let disk = mesh.nodes[1].copy_disk();
    mesh.nodes[1].restore(disk);
    mesh.run(50_000);
    assert_eq!((count(&mesh.nodes[1], "a"), count(&mesh.nodes[1], "b")), (5, 50));
    mesh.link(0, 1);
    mesh.run(20_000);
    assert_eq!((count(&mesh.nodes[1], "a"), count(&mesh.nodes[0], "a")), (5, 50));
    assert!(mesh.nodes.iter().all(|node| node.replica.links()[0].in_sync));
    // What comes later goes later.
    publish(&mut mesh, 0, "a", 10);
    mesh.run(90_000);
    assert!(count(&mesh.nodes[1], "a") >= 50);
    mesh.run(60_000);
    assert_eq!(count(&mesh.nodes[1], "a"), 5);
}

#[test]
fn what_comes_late_stays_for_as_long_as_its_own_topic_keeps_it() {
    let mut mesh = SimMesh::new(2);
    for (topic, max_age_ms) in [("long", 100_000), ("short", 10_000)] {
        mesh.set_rule(1, topic, Some(Rule { max_age_ms: Some(max_age_ms), ..Rule::default() }));
        publish(&mut mesh, 0, topic, 10);
    }
    mesh.run(120_000);
    mesh.link(0, 1);
    mesh.run(60_000);
    // Both are old by their stamps; one has been here for as long as its rule says.
    assert_eq!((count(&mesh.nodes[1], "long"), count(&mesh.nodes[1], "short")), (50, 5));
    mesh.run(60_000);
    assert_eq!((count(&mesh.nodes[1], "long"), count(&mesh.nodes[1], "short")), (5, 5));
}

#[test]
fn who_may_not_write_is_refused_where_the_rule_is_known_and_the_rest_converges() {
    let mut mesh = SimMesh::new(3);
    for (a, b) in [(0, 1), (1, 2), (0, 2)] {
        mesh.link(a, b);
    }
    mesh.set_writers(1, "a.>", Some(vec![1]));
    for topic in ["a.x", "b"] {
        for index in 0..3 {
            publish(&mut mesh, index, topic, 3);
        }
    }
    mesh.run(10_000);
    let by = |index: usize, author: usize| {
        let author = mesh.nodes[author].author();
        mesh.nodes[index].contents().iter().filter(|event| event.1 == "a.x" && event.0 == author).count()
    };
    assert_eq!([by(0, 0), by(0, 1), by(0, 2)], [15, 0, 15]);
    assert_eq!([by(1, 0), by(1, 1), by(1, 2)], [15, 0, 0]);
    assert_eq!(mesh.nodes[1].refused, 3);
    assert!((0..3).all(|index| count(&mesh.nodes[index], "b") == 45));
    for node in &mesh.nodes {
        assert!(node.replica.links().iter().all(|link| link.in_sync), "{:?}", node.replica.links());
        assert!(node.replica.missing().is_empty());
    }
    // Lifted, all comes; named again, what is here stays.
    mesh.set_writers(1, "a.>", None);
    mesh.run(10_000);
    mesh.assert_converged();
    mesh.set_writers(1, "a.>", Some(vec![1]));
    publish(&mut mesh, 2, "a.x", 1);
    mesh.run(10_000);
    assert_eq!((count(&mesh.nodes[0], "a.x"), count(&mesh.nodes[1], "a.x")), (35, 30));
    assert!(mesh.nodes.iter().all(|node| node.replica.links().iter().all(|link| link.in_sync)));
}

#[test]
fn who_waits_for_all_does_not_wait_for_what_a_rule_leaves_out_meanwhile() {
    let (mut node, peer) = linked(u64::MAX);
    node.frame(at(10), peer, heads_of(&[&seal(&Stamp::of(9), 1, Link::default(), "far")]));
    let probed = |effects: Vec<Effect>| effects.iter().any(|effect| matches!(effect, Effect::Probed { id: 7, .. }));
    let mut waiting = node.handle(at(20), Input::Probe { id: 7 });
    waiting.extend(node.frame(at(30), peer, Frame::ProbeSeen(7)));
    waiting.extend(node.frame(at(30), peer, Frame::ProbeDone(7)));
    waiting.extend(node.handle(at(40), Input::Tick));
    assert!(!probed(waiting), "the peer has something that is not here");
    let mut rules = Rules::default();
    let rule = Rule { writers: Some(vec![node.author()]), ..Rule::default() };
    rules.set(Pattern::new("a").unwrap(), rule).unwrap();
    assert!(probed(node.handle(at(50), Input::SetRules(rules))));
}
